"""Six students of the demo from one cache: terms, temperature, main region, seed; and the plain one.

Commands: make cache-teacher CONFIG=configs/demo/distill.py, then make sweep SWEEP=configs/sweep/demo.py
About 15 minutes on two CPU cores. It shows how a sweep is written, not which setting is best: on scenes of 128 px and
200 steps the seeds differ as much as the settings.
"""

base = "configs/demo/distill.py"
baseline = "configs/demo/plain.py"
runs = dict(
    both=dict(),
    ld_only={"distillation.loss_kd": None},
    kd_only={"distillation.loss_ld": None},
    ld_t10={"distillation.loss_ld.temperature": 10.0},
    main_region={"region.factor": 1.0},
    seed1={"randomness.seed": 1},
)
