# RefTR's ReferIt recipe without pre-training: three decoder layers.
_base_ = ["../_base_/ground_sd15.py"]
model = dict(head=dict(decoder_layers=3))
data = dict(dataset="referit")
