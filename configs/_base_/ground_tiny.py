# Boxes and masks of phrases on the embedded backbone, frozen; a run takes minutes on two CPU cores.
# Nothing here is a published protocol.
_base_ = ["./res_tiny.py"]
task = "rec"
model = dict(
    backbone=dict(attention_kernel="sdpa"),  # this, optim and schedule as its table was measured
    head=dict(
        _delete_=True,
        type="PhrasePixelHead",
        answers="both",
        channels=64,
        word_channels=64,
        map_channels=32,
        phrase_channels=8,
    ),
    loss_weights=dict(l1=5.0, giou=2.0, edges=1.0, focal=20.0, dice=3.0),
    auxiliary=True,
    divide_by="phrases",
)
data = dict(val_dataset=None, phrases=None, box_values="float", overlap="union")
optim = dict(lr=2e-3, lr_batch=None, warmup=50, muon=None)
schedule = dict(batch_size=32, print_freq=20)
grounding = dict(protocol="reftr", clamp=False)
