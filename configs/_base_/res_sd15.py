# Referring segmentation with Stable Diffusion 1.5: the published recipe of VPD, except that the
# UNet stays frozen unless model.backbone.unet_mode = 'finetune'.
task = "res"
init = None  # a trained system's folder, whose weights training begins with (the stage before)
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
        checkpointing=False,  # True or 'light': recompute activations, less memory, more time
        compiled=False,  # torch.compile by blocks: the first steps wait for it
        lora_rank=16,
        channels_last=False,  # another order of sums: often faster, no longer the same bits
        trades=dict(  # speed for accuracy; whatever is scored with one says so
            tiny_vae=None,  # an AutoencoderTiny such as TAESD: folder or Hub id
            merge_tokens=0.0,  # share of the tokens merged in self-attention, up to 0.75
            merge_levels=1,  # at how many levels, from the finest that has attention
            int8=False,  # transformers of the UNet in 8 bits; for testing only
        ),
    ),
    head=dict(type="VPDDecoder"),
    class_weight=(0.9, 1.1),
    sentence_batch=8,
    latent_cache_mb=2048,
    cache_dir=None,  # a folder: latents and text features are kept there for all later runs
    cache_dtype="float32",  # 'float16': half the space, rounded
    park_encoders=False,  # True: VAE and text encoder wait there in steps that need neither
    ignore_sentence=False,
    loss_over_processes=False,  # True: several processes step as one would, but for rounding
    dice_weight=0.0,  # of a Dice loss beside the published cross-entropy
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
    on_empty="error",  # 'skip' leaves blank sentences out, and with them items that are scored
    train_split="train",
    train_fraction=1.0,  # share of the training pictures
    val_split="val",
    train_sentences="random",
    eval_sentences="all",
    eval_pictures=1,
    group_by_picture=False,  # batches of refs of the same pictures, told apart by words alone
    keep_in_memory=False,  # for sets of a few thousand small pictures
    workers=4,
    max_broken=0,  # pictures of the training split that may be broken and are then left out
    loader_timeout=300,  # seconds a worker may take for a batch
)
optim = dict(
    lr=5e-5,
    lr_batch=32,  # the total batch rates are for, as published: 4 a GPU on 8; None: for any
    ema=None,  # decay of an average of the weights, which is then scored and saved
    weight_decay=1e-2,
    amsgrad=False,
    precision="fp32",
    lower_frozen=False,  # with bf16: frozen weights of the UNet kept so, and validation in bf16
    schedule="poly",  # or 'step' (a tenth from each epoch of lr_drop on), 'cosine'
    power=0.9,  # of 'poly'
    lr_drop=(),
    warmup_epochs=0,  # of 'step' and 'cosine'
    lr_scale={},  # beginning of parameter names -> factor on lr
    unet_scale=1.0,  # the same for a UNet with unet_mode 'finetune'
    muon=None,  # learning rate of Muon for the head's matrices; None: AdamW for all, as published
    warmup=0,  # steps of linear rise
    clip=None,  # largest gradient norm
    accumulate=1,
    in_backward=False,  # update each parameter as its gradient comes: less memory, one process only
)
schedule = dict(epochs=40, batch_size=4, val_interval=1, print_freq=50)
survival = dict(
    save_every=500,  # steps between two states to resume from; 0: at the end of epochs only
    keep_last=2,
    max_skipped=50,  # steps skipped because the gradient was not finite
    max_streak=10,  # of them one after the other
    stall_timeout=1800,  # seconds without a step before a process gives up; 0 waits for ever
    shard=False,  # FSDP2: UNet weights, gradients and moments shared out over the processes
    collective_timeout=1800,  # seconds a process waits for the others in an exchange
)
protocol = "vpd"  # of task res
output_dir = "checkpoints"
model_id = None  # the data set's name
seed = 0
deterministic = False
