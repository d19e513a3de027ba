# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Needs and effects of ``import mmact``, in fresh interpreters: here everything is imported."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from test_ops.utils import ROOT, run_python

import mmact

# The layers, and what they may not pull in.
OPENMMLAB = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpose', 'mmpretrain')
HEAVY = ('matplotlib', 'pycocotools', 'cv2', 'PIL', 'scipy', 'sklearn', 'plotly', 'triton')


def without(*packages: str) -> str:
    """Code after which the packages are not to be found, as where they are not installed."""
    return (
        'from importlib.machinery import PathFinder\n'
        'find_spec = PathFinder.find_spec\n'
        f'absent = {packages}\n'
        'def find_present(name, *args):\n'
        '    return None if name.split(".")[0] in absent else find_spec(name, *args)\n'
        'PathFinder.find_spec = find_present\n'
    )


def test_version():
    assert re.fullmatch(r'\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?', mmact.__version__)
    written = [p for p in ROOT.glob('*.py') if f"'{mmact.__version__}'" in p.read_text()]
    assert written == [], 'the version is written in mmact/version.py alone'


def test_import_is_quiet_and_needs_no_gpu():
    """No output, no warning about mmact, and CUDA neither needed nor started."""
    result = run_python(
        'import warnings, torch\n'
        'with warnings.catch_warnings(record=True) as caught:\n'
        '    warnings.simplefilter("always")\n'
        '    import mmact\n'
        'ours = [w for w in caught if "mmact" in str(w.filename) or "mmact" in str(w.message)]\n'
        'assert not ours, [str(w.message) for w in ours]\n'
        'assert not torch.cuda.is_initialized()',
        CUDA_VISIBLE_DEVICES='',
    )
    assert (result.returncode, result.stdout) == (0, ''), result.stderr


def test_import_does_not_load_what_is_used_later():
    """import mmact stays light: plotting, data sets and the codebases are loaded where used."""
    pytest.importorskip('mmengine')
    result = run_python('import sys, mmact; print(*sorted(sys.modules))')
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    assert {'mmact.registry', 'mmact.engine', 'mmact.activations'} <= loaded
    for name in ('mmdet', 'mmseg', 'mmpose', 'mmpretrain', 'matplotlib.pyplot', 'pycocotools'):
        assert name not in loaded, f'import mmact loads {name}'
    # mmengine itself may import matplotlib; ours must not be what does.
    before = set(run_python('import sys, mmengine; print(*sys.modules)').stdout.split())
    assert 'matplotlib' not in loaded or 'matplotlib' in before


def test_torch_alone_is_enough():
    """Without OpenMMLab and the rest: layers build, learn, and realign."""
    result = run_python(
        without(*OPENMMLAB, *HEAVY) + 'import torch\n'
        'import mmact\n'
        'from mmact.activations import PWLU, FReLU\n'
        'layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), PWLU(), FReLU())\n'
        'layer(torch.randn(2, 3, 5, 5)).sum().backward()\n'
        'assert layer[1].points.grad.abs().sum() > 0\n'
        'layer[1].start_collecting()\n'
        'layer(torch.randn(2, 3, 5, 5))\n'
        'layer[1].realign()\n'
        'for record in mmact.list_activations():\n'
        '    assert record.description\n'
    )
    assert result.returncode == 0, result.stderr


def test_mmengine_alone_is_enough_to_register():
    pytest.importorskip('mmengine')
    result = run_python(
        without(*OPENMMLAB[1:]) + 'import mmact\n'
        'from mmengine.registry import MODELS\n'
        'print(MODELS.build(dict(type="PWLU", num_channels=3)))'
    )
    assert result.returncode == 0, result.stderr
    assert 'num_channels=3' in result.stdout


def imports_of(path: Path) -> set[str]:
    """Names of the modules that a file imports, inside functions too; mmact's own in full."""
    names = set()
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(package[: len(package) - node.level + 1])
            rest = [node.module] if node.module else [alias.name for alias in node.names]
            names |= {f'{base}.{name}' for name in rest}
    return names


@pytest.mark.parametrize(
    ('folder', 'allowed'),
    [('ops', ('mmact.ops',)), ('activations', ('mmact.ops', 'mmact.activations'))],
)
def test_layers_import_only_from_those_above(folder, allowed):
    """mmact/ops needs torch; mmact/activations needs torch and mmact.ops."""
    files = list((ROOT / 'mmact' / folder).rglob('*.py'))
    assert files
    for path in files:
        for name in imports_of(path):
            top = name.split('.')[0]
            assert top not in OPENMMLAB + HEAVY + ('numpy',), f'{path.name} imports {name}'
            if top == 'mmact':
                # mmact._C is the compiled library itself
                assert name.startswith((*allowed, 'mmact._C')), f'{path.name} imports {name}'


def test_the_library_imports_no_project():
    for path in (ROOT / 'mmact').rglob('*.py'):
        tops = {name.split('.')[0] for name in imports_of(path)}
        assert not tops & {'projects', 'tools', 'tests'}, path


def test_public_names():
    from mmact import activations, ops

    layers = {'PWLU', 'AReLU', 'ELSA', 'PAU', 'RPAU', 'FReLU'}
    assert set(activations.__all__) >= {*layers, 'unresolved'}
    functions = {'pwlu', 'arelu', 'pau', 'piecewise_linear'}
    assert set(ops.__all__) >= {*functions, 'reference', 'has_kernel'}
    for module in (mmact, activations, ops):
        for name in module.__all__:
            assert getattr(module, name) is not None


def test_wheel_without_kernels_is_complete_and_says_so_once(tmp_path):
    """Without a compiler pip builds the package, configs, tools, and eager ops."""
    source = tmp_path / 'source'
    left_out = shutil.ignore_patterns('.*', 'build', 'data', 'work_dirs', '*.so', '*.egg-info')
    shutil.copytree(ROOT, source, ignore=left_out)
    command = ['pip', 'wheel', '-q', '--no-build-isolation', '--no-deps', '-w']
    subprocess.run(
        [sys.executable, '-m', *command, str(tmp_path), str(source)],
        env={**os.environ, 'MMACT_KERNELS': '0'},
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob('mmact-*.whl')
    site = tmp_path / 'site'
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # The library, and what OpenMMLab's tools want beside it; nothing that draws or repeats a paper.
    library = {str(path.relative_to(ROOT)) for path in ROOT.glob('mmact/**/*.py')}
    shipped = {str(path.relative_to(site)) for path in site.rglob('*') if path.is_file()}
    code = {name for name in shipped if name.endswith('.py')}
    assert {name for name in code if '/.mim/' not in name} == library
    rest = {'/'.join(name.split('/')[:3]) for name in shipped - library}
    rest = {name for name in rest if '.dist-info/' not in name}
    mim = {f'mmact/.mim/{name}' for name in ('configs', 'tools', 'model-index.yml')}
    assert rest == {'mmact/visualization/report.html', *mim}
    tools = {name.partition('.mim/tools/')[2] for name in shipped}
    assert {'train.py', 'test.py', 'dist_train.sh', 'analysis_tools/plot_activations.py'} <= tools
    for name in code:
        text = (site / name).read_text()
        assert 'import projects' not in text, name
        assert 'from projects' not in text, name

    script = (
        # An editable install of mmact would lend the wheel its kernels.
        'import sys\n'
        'sys.meta_path[:] = [f for f in sys.meta_path if "Editable" not in repr(f)]\n'
        'import warnings, torch; warnings.simplefilter("always")\n'
        'with warnings.catch_warnings(record=True) as caught:\n'
        '    from mmact.activations import PWLU\n'
        '    act = PWLU(3)\n'
        '    x = torch.randn(2, 3, requires_grad=True)\n'
        '    for _ in range(2):\n'
        '        act(x).sum().backward()\n'
        'print(sum("no compiled kernels" in str(w.message) for w in caught), act.points.grad.sum())'
    )
    run = subprocess.run(
        [sys.executable, '-c', script],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(site)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert run.stdout.split()[0] == '1', run.stdout
