# One activation at every place of a model that has a ReLU, starting as that ReLU (configs/matrix).
custom_imports = dict(imports=['mmact'], allow_failed_imports=False)
everywhere = dict(
    # Three times the paper's function, which starts as ReLU: see dyreluc.py.
    dyreluc=dict(type='mmact.Converted', act_cfg=dict(type='DyReLUC')),
    # N = 16 intervals for each channel.
    pwlu=dict(type='mmact.Converted', act_cfg=dict(type='PWLU')),
    # L-DiTAC with LeakyReLU's slope at 0, the version that can start as ReLU: one for each place.
    ditac=dict(type='mmact.Converted', act_cfg=dict(type='DiTAC')),
)
# No weight decay of activations; hyper functions of DY-ReLU decay as other weights do.
constructor = 'ActivationParamConstructor'
