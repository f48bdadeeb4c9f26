# Referring segmentation with Stable Diffusion 1.5: the published recipe of VPD, except that the
# UNet stays frozen unless model.backbone.unet_mode = 'finetune'.
task = "res"
model = dict(
    backbone=dict(
        name="sd15",
        source=None,  # a diffusers folder, a Hub id, or an LDM .ckpt or .safetensors
        unet_mode="frozen",  # 'finetune' is the published recipe, 'lora' lies between
        timestep=1,
        attention_kernel="sdpa",
        attention_maps=True,
        map_gradient=False,
        text_adapter=True,
        latent_scale=1.0,
        checkpointing=False,
        lora_rank=16,
    ),
    head=dict(type="VPDDecoder"),
    class_weight=(0.9, 1.1),
    sentence_batch=8,
    latent_cache_mb=2048,
    ignore_sentence=False,
)
data = dict(
    root="refer/data",
    image_root=None,
    dataset="refcoco",
    split_by=None,  # the data set's own default
    token_length=None,  # the data set's own default
    image_size=512,
    overlap="drop",  # what the published code trains and scores on; 'union' keeps overlaps
    text_field="sent",
    train_split="train",
    train_fraction=1.0,  # share of the training pictures
    val_split="val",
    train_sentences="random",
    eval_sentences="all",
    eval_pictures=1,
    group_by_picture=False,  # batches of refs of the same pictures, told apart by words alone
    keep_in_memory=False,  # for sets of a few thousand small pictures
    workers=4,
)
optim = dict(
    lr=5e-5,
    weight_decay=1e-2,
    amsgrad=False,
    precision="fp32",
    power=0.9,
    warmup=0,  # steps of linear rise
    clip=None,  # largest gradient norm
    accumulate=1,
)
schedule = dict(epochs=40, batch_size=4, val_interval=1, print_freq=50)
protocol = "vpd"
output_dir = "checkpoints"
model_id = None  # the data set's name
seed = 0
deterministic = False
