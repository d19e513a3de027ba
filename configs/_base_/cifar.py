# Recipes on CIFAR-10 and CIFAR-100, with one process, and AReLU's conversion of a backbone.
#
# AReLU on CIFAR-10 (appendix C).
cifar10_arelu = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    param_scheduler=dict(type='MultiStepLR', milestones=[50, 75], gamma=0.1),
    max_epochs=100,
    batch_size=128,
)
# AReLU on CIFAR-100 (section 4.3), which gives no epochs: these are what is common there, steps of
# 0.2 after 60, 120 and 160 of 200.
cifar100_arelu = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4),
    param_scheduler=dict(type='MultiStepLR', milestones=[60, 120, 160], gamma=0.2),
    max_epochs=200,
    batch_size=64,
)
# PAU on CIFAR-10 (appendix A.4.1).
cifar10_pau = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4),
    param_scheduler=dict(type='ExponentialLR', gamma=0.985),
    max_epochs=400,
    batch_size=64,
)
converted_arelu = dict(
    type='mmact.Converted',
    example=(1, 3, 32, 32),
    act_cfg=dict(type='AReLU', alpha=0.9, beta=2.0),
)
