"""Students of the GWD row from one cache: terms, LD's temperature and weight, main region, backbone, seeds; plain.

Commands: make cache-teacher CHECKPOINT=<teacher.pth>, then make sweep SWEEP=configs/sweep/gwd_dota.py ARGS='--jobs 4'
Hardware: 12 epochs on DOTA-v1.0 train for each of twelve students; on several GPUs, as many at a time with --jobs.
Published for the first of them, with the teacher live, DOTA val: AP 40.2, AP50 66.4; plain: AP 37.1, AP50 63.1.
"""

base = "configs/distill/gwd_r18_1x_dota.py"
baseline = "configs/plain/gwd_r18_1x_dota.py"
runs = dict(
    published=dict(),
    ld_only={"distillation.loss_kd": None},
    kd_only={"distillation.loss_ld": None},
    ld_t2={"distillation.loss_ld.temperature": 2.0},
    ld_t10={"distillation.loss_ld.temperature": 10.0},
    ld_weight_5={"distillation.loss_ld.loss_weight": 5.0},
    ld_weight_20={"distillation.loss_ld.loss_weight": 20.0},
    main_region={"region.factor": 1.0},
    r34={"model.backbone.depth": 34, "model.backbone.init_cfg.checkpoint": "torchvision://resnet34"},
    seed1={"randomness.seed": 1},
    seed2={"randomness.seed": 2},
)
