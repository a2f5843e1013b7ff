"""The published optimiser of GFL on COCO: SGD at 0.01 for 16 images a step, and in proportion for fewer or more."""

optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=1e-4))
auto_scale_lr = dict(enable=True, base_batch_size=16)
