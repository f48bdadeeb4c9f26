# Boxes of expressions and phrases with Stable Diffusion 1.5: RefTR's head, losses and schedule
# (its first stage) on VPD's features. The UNet stays frozen; RefTR trains its picture backbone, at
# a tenth of the rate, as --unet_mode finetune does here.
_base_ = ["./res_sd15.py"]
task = "rec"
model = dict(
    head=dict(
        _delete_=True,
        type="RefTRHead",
        answers="boxes",  # 'both': masks too; 'masks': without boxes
        width=256,
        heads=8,
        feedforward=2048,
        dropout=0.1,
        encoder_layers=6,
        decoder_layers=6,
        level=2,  # of the pyramid: stride 32
    ),
    loss_weights=dict(l1=1.0, giou=1.0, edges=0.0, focal=1.0, dice=1.0),
    auxiliary=True,  # the boxes of every decoder layer are learned
    divide_by="captions",  # published: long captions count more; 'phrases': all phrases alike
)
data = dict(
    val_dataset=None,  # another data set to validate on
    phrases=None,  # converted files, one or several, to read the data set from instead of its own
    box_values="float",  # 'int': true boxes cut to whole numbers, as published
)
optim = dict(
    lr=1e-4,
    lr_batch=32,
    unet_scale=0.1,
    weight_decay=1e-4,
    clip=0.1,
    schedule="step",
    lr_drop=(60,),
)
schedule = dict(epochs=90, batch_size=8)
grounding = dict(
    protocol="reftr",  # or 'transvg', 'mdetr_any', 'mdetr_merged'
    clamp=False,  # boxes cut at the picture's edges before they are scored (TransVG)
)
