# Referring segmentation on the tiny backbone. Its weights are random, so the UNet learns with the
# head; a run takes minutes on two CPU cores. Nothing here is a published protocol.
_base_ = ['./res_sd15.py']
model = dict(
    backbone=dict(name='tiny', unet_mode='finetune', map_gradient=True, latent_scale=6.0),
    sentence_batch=32,
)
data = dict(image_size=128, eval_pictures=8, workers=1)
optim = dict(lr=2e-3, clip=1.0)
schedule = dict(epochs=4, batch_size=16, print_freq=20)
