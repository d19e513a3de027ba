# Activations of configs/ditac, in backbone and heads. All but DiTAC start as ReLU or close to it.
activations = dict(
    # GELU at the start: theta is 0.
    ditac=dict(type='DiTAC'),
    # ReLU in phase I, and then aligned to its input.
    pwlu=dict(type='PWLU'),
    # Slopes 0.05 and 1.018, as in arelu_pretrained.py.
    arelu=dict(type='AReLU', alpha=0.05, beta=-4.0),
    # Three times the paper's function, which starts as ReLU, as in dyreluc.py.
    dyreluc=dict(type='DyReLUC', alphas=(3.0, 0.0), lambda_a=3.0, lambda_b=1.5),
)
