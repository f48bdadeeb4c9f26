# Referring segmentation on the embedded backbone, frozen; a run takes minutes on two CPU cores.
# Nothing here is a published protocol.
_base_ = ["./res_sd15.py"]
model = dict(
    # Of 64 cells and 16 words, maps formed in full cost less than the fused kernel.
    backbone=dict(name="tiny", map_gradient=True, attention_kernel="eager"),
    head=dict(type="WordDecoder", channels=64, word_channels=64, layers=2),
    sentence_batch=32,
)
data = dict(
    image_size=128,
    eval_pictures=8,
    group_by_picture=True,
    keep_in_memory=True,
    workers=0,
)
optim = dict(
    lr=1.5e-3,
    lr_batch=16,
    unet_scale=0.1,  # at the head's own rate it learns far worse: docs/embedded.md
    clip=1.0,
    warmup=100,
    muon=0.007,
)
schedule = dict(epochs=4, batch_size=16, print_freq=40, val_interval=4)
