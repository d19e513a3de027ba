_base_ = './td-hm_mobilenetv2-x05_relu_mini-coco.py'
act_cfg = dict(type='DyReLUC')
# Not at A3: starting as ReLU after the narrow projections, it learns too slowly for a few hundred
# iterations.
model = dict(
    backbone=dict(act_cfg=act_cfg, act_positions=('stem', 'A1', 'A2', 'last')),
    head=dict(act_cfg=act_cfg, act_positions=('A1', 'A2')),
)
