"""Registration, logging and checkpoints: the same for every run."""

default_scope = "mmrotate"
# A config that brings a module of its own names it here, beside these two (docs/heads.md).
custom_imports = dict(imports=["mmrotate", "distill.registered"], allow_failed_imports=False)

# A student from the cache may ask its teacher now and then (docs/method.md): beside these hooks,
# audit=dict(type="TeacherAudit", interval=500), or --cfg-options default_hooks.audit.type=TeacherAudit.
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
env_cfg = dict(
    cudnn_benchmark=False, mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0), dist_cfg=dict(backend="nccl")
)
# On a GPU: whether the factors of float32 products are rounded to 10 bits (docs/exactness.md); --tf32 changes it.
tf32 = False
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="mmdet.DetLocalVisualizer")
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True)
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=0)
