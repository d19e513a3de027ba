# ImageNet as in the PWLU paper, section 4.1: 16 x 64 images a step, SGD with momentum 0.9, one
# cycle of a cosine. The paper names neither the learning rate nor a warm-up: 0.4 is ResNet's 0.1
# for 256 images, scaled, with 5 epochs to reach it.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)

# By the number of epochs: 100 for ResNets, 200 for MobileNetV2, 350 for MobileNetV3, EfficientNet.
schedules = {
    f'e{epochs}': [
        dict(
            type='LinearLR',
            start_factor=0.1,
            by_epoch=True,
            end=5,
            convert_to_iter_based=True,
        ),
        dict(
            type='CosineAnnealingLR',
            by_epoch=True,
            begin=5,
            T_max=epochs - 5,
            convert_to_iter_based=True,
        ),
    ]
    for epochs in (100, 200, 350)
}
param_scheduler = schedules['e100']
optim_wrapper = dict(
    constructor='ActivationParamConstructor',
    optimizer=dict(type='SGD', lr=0.4, momentum=0.9, weight_decay=0.0001),
)
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=1024)
