# Kaggle's lgg-mri-segmentation: 3929 slices of 110 patients, 10 of whom are held out, as in the
# public implementation by Buda et al., which the AReLU paper follows (appendix E).
custom_imports = dict(imports=['mmact', 'projects.lgg_unet'], allow_failed_imports=False)

data_root = 'data/lgg-mri-segmentation/'
crop_size = (256, 256)
dataset = dict(type='mmact.LGGSegmentationDataset', data_root=data_root, val_patients=10)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='mmact.NormalizeVolume'),
    dict(type='RandomResize', scale=crop_size, ratio_range=(0.95, 1.05), keep_ratio=True),
    dict(type='RandomRotate', prob=1.0, degree=15, seg_pad_val=0),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmact.NormalizeVolume'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(**dataset, split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**dataset, split='val', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmact.DiceMetric')
test_evaluator = val_evaluator
