# RefTR's second stage: masks too, on the weights of the first (--init), at a tenth of the rate,
# which is what its picture backbone had before.
_base_ = ["./ground_sd15.py"]
model = dict(head=dict(answers="both"), auxiliary=False)
optim = dict(lr=1e-5, lr_drop=(30,), lr_scale={"head.mask": 10.0}, unet_scale=1.0)
schedule = dict(epochs=40)
