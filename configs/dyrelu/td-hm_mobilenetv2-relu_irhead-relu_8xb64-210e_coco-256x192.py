# Key points as in the Dynamic ReLU paper, section 5.3 (Table 10): MMPose's config for MobileNetV2
# with the paper's head and settings, and trained from scratch.
_base_ = (
    'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_mobilenetv2_8xb64-210e_coco-256x192.py'
)
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)

model = dict(
    backbone=dict(type='mmact.MobileNetV2', act_cfg=dict(type='ReLU'), init_cfg=None),
    head=dict(type='mmact.InvertedResidualHeatmapHead', act_cfg=dict(type='ReLU')),
)

# Position 4 is RandomBBoxTransform. The paper names no shift.
train_pipeline = _base_.train_pipeline
train_pipeline[4].update(shift_prob=0.0, scale_factor=(0.65, 1.35), rotate_factor=45.0)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=0.001))
