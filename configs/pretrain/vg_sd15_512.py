# Pre-training on Visual Genome's region descriptions, as RefTR's authors give it; convert them with
# --exclude, so that no picture is trained on that RefCOCO, RefCOCO+ and RefCOCOg are scored on.
_base_ = ["../_base_/ground_sd15.py"]
data = dict(dataset="vg", val_dataset="refcoco", token_length=40)
optim = dict(lr_drop=(6,), warmup_epochs=3, lr_batch=128)
schedule = dict(epochs=15, batch_size=32)
