# The key points of configs/dyrelu, small enough to learn on a CPU in a few minutes, on the
# miniature COCO of tools/dataset_converters/make_mini.py, in the boxes of its file of detections.
_base_ = '../dyrelu/td-hm_mobilenetv2-x05-relu_irhead-relu_8xb64-210e_coco-256x192.py'

data_root = 'data/mini_coco/'
max_epochs = 20

# A third of the size, and a quarter of the head's width. The heat maps' peaks stay as wide as at
# full size, because wide ones are learned sooner.
codec = dict(input_size=(64, 96), heatmap_size=(16, 24), sigma=2)
model = dict(
    head=dict(
        blocks=((2, 5, 1, 64), (1, 5, 3, 64), (2, 3, 3, 32), (2, 3, 3, 32)),
        decoder=codec,
    ),
)

# Positions 3 to 6 are RandomHalfBody, RandomBBoxTransform, TopdownAffine and GenerateTarget. A few
# hundred iterations are too few to learn people of all sizes and rotations.
train_pipeline = _base_.train_pipeline
train_pipeline[3].prob = 0.0
train_pipeline[4].update(scale_factor=(0.85, 1.15), rotate_factor=15.0)
train_pipeline[5].input_size = codec['input_size']
train_pipeline[6].encoder.update(codec)
val_pipeline = _base_.val_pipeline
val_pipeline[2].input_size = codec['input_size']
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    drop_last=True,
    dataset=dict(data_root=data_root, pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        bbox_file=data_root
        + 'person_detection_results/COCO_val2017_detections_AP_H_56_person.json',
        pipeline=val_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/person_keypoints_val2017.json')
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=max_epochs, val_interval=5)
optim_wrapper = dict(optimizer=dict(lr=0.002))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=max_epochs,
        eta_min=1e-5,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(type='ResumableCheckpointHook', interval=5, max_keep_ckpts=1),
)
auto_scale_lr = dict(base_batch_size=16)
randomness = dict(seed=0)
