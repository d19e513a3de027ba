# ImageNet as in the Dynamic ReLU paper, section 5.1 and appendix A.4: 8 x 32 images a step, SGD
# with momentum 0.9, label smoothing. The hyper functions of Dynamic ReLU are ordinary weights.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs32.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)

model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmact.MobileNetV2', act_cfg=dict(type='ReLU')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='mmact.LinearClsHead',
        num_classes=1000,
        in_channels=1280,
        dropout_rate=0.2,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, 5),
    ),
)
# How strong the jitter is, and Mixup's alpha, the paper does not say.
color_jitter = dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4)
jittered = [*_base_.train_pipeline[:-1], color_jitter, _base_.train_pipeline[-1]]
mixup = dict(augments=dict(type='Mixup', alpha=0.2))

# MobileNets: 300 epochs, one cycle of a cosine, down to 0.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=3e-5))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=300, convert_to_iter_based=True)]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=256)

# ResNets: 90 epochs, the learning rate divided by 10 after 30 and 60.
resnet = dict(
    optimizer=dict(lr=0.1, weight_decay=1e-4),
    param_scheduler=[dict(type='MultiStepLR', milestones=[30, 60], gamma=0.1)],
)
