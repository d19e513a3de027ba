# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/: all are in the site, their links lead somewhere, their code runs."""

import contextlib
import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from marks import slow_unless

with contextlib.suppress(ImportError):
    # Its progress bars keep the sys.stdout of this moment; that of a test is closed soon.
    import mmengine.utils  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'
PAGES = sorted(p for p in DOCS.rglob('*') if p.suffix in ('.md', '.ipynb'))
FENCE = re.compile(
    r'^(?P<fence> *```+)(?P<language>\w*)(?: title="(?P<title>.+?)")?\n(?P<code>.*?)^(?P=fence)$',
    re.M | re.S,
)
# What a start page needs besides torch.
NEEDS = {
    'mmdetection': 'mmdet',
    'mmpose': 'mmpose',
    'mmsegmentation': 'mmseg',
    'pytorch': 'torchvision',
    'timm': 'timm',
}
LINK = re.compile(r'\]\((?!\w+:|#)([^)\s#]+)')


def test_every_page_is_in_the_nav():
    yaml = pytest.importorskip('yaml')

    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        return [
            page
            for below in (entry.values() if isinstance(entry, dict) else entry)
            for page in pages(below)
        ]

    named = pages(yaml.safe_load((ROOT / 'mkdocs.yml').read_text())['nav'])
    there = [str(p.relative_to(DOCS).with_suffix('.md')) for p in PAGES]
    assert sorted(p for p in named if not p.startswith('repo/')) == there
    for page in named:
        assert not page.startswith('repo/') or (ROOT / page.removeprefix('repo/')).is_file(), page


@pytest.mark.parametrize(
    'page',
    [*PAGES, *sorted(ROOT.glob('*.md')), *sorted(ROOT.glob('*/*/README.md'))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_links(page):
    text = page.read_text(encoding='utf-8')
    if page.suffix == '.ipynb':
        text = '\n'.join(''.join(cell['source']) for cell in json.loads(text)['cells'])
    for link in LINK.findall(FENCE.sub('', text)):
        assert (page.parent / link).exists(), f'{page} links to {link}'


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A working directory that looks like a clone, in which nothing is written into ours."""
    for name in ('configs', 'projects', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MPLBACKEND', 'agg')
    return tmp_path


START = sorted(p.stem for p in DOCS.glob('start/*.md'))


@pytest.mark.parametrize('page', slow_unless(('mmdetection', 'pytorch').__contains__, START))
def test_the_code_of_a_page_runs(page, clone, monkeypatch, capfd):
    """In its order: a block with a title is a file, text is what the block before it printed."""
    pytest.importorskip(NEEDS[page])
    text = (DOCS / f'start/{page}.md').read_text(encoding='utf-8')
    blocks = list(FENCE.finditer(text))
    assert len(blocks) == text.count('```') / 2
    names, printed = {'__name__': '__main__'}, ''
    for block in blocks:
        language, code = block['language'], block['code']
        if block['title']:
            assert any(block['title'] in other['code'] for other in blocks), 'nothing uses it'
            (clone / block['title']).write_text(code)
        elif language == 'text':
            for line in code.splitlines():
                assert line in printed, f'{line!r} was not printed, but {printed[-2000:]}'
            continue
        elif language == 'python':
            exec(compile(code, f'{page}.md', 'exec'), names)
        elif language == 'shell':
            for line in code.replace('\\\n', ' ').splitlines():
                run(line, monkeypatch)
        else:
            raise AssertionError(f'nothing is known of {language!r}')
        printed = ''.join(capfd.readouterr())


def run(line, monkeypatch):
    """Runs a line of a shell, a Python program in this process: that saves seconds of imports."""
    python, *arguments = shlex.split(line)
    if python != 'python':
        subprocess.run(line, shell=True, check=True)
        return
    monkeypatch.setattr(sys, 'argv', arguments)
    status = None
    try:
        runpy.run_path(arguments[0], run_name='__main__')
    except SystemExit as stop:
        status = stop.code
    assert not status, line


def test_the_notebook_runs(clone):
    for needed in ('matplotlib', 'sklearn'):
        pytest.importorskip(needed)
    names = {'__name__': '__main__'}
    for cell in json.loads((DOCS / 'tutorial.ipynb').read_text(encoding='utf-8'))['cells']:
        if cell['cell_type'] == 'code':
            exec(compile(''.join(cell['source']), 'tutorial.ipynb', 'exec'), names)


def test_the_tables_of_choosing_are_up_to_date(monkeypatch):
    pytest.importorskip('mmengine')
    monkeypatch.syspath_prepend(ROOT / 'tools/misc')
    run(f'python {ROOT}/tools/misc/print_choosing.py --check', monkeypatch)


def test_the_configs_of_learning_are_valid():
    pytest.importorskip('mmengine')
    from mmengine.registry import HOOKS, OPTIM_WRAPPER_CONSTRUCTORS

    import mmact  # noqa: F401

    built = set()
    for block in FENCE.finditer((DOCS / 'learning.md').read_text(encoding='utf-8')):
        config = {}
        exec(block['code'], config)
        built.update(type(HOOKS.build(hook)).__name__ for hook in config.get('custom_hooks', ()))
        if wrapper := config.get('optim_wrapper'):
            cfg = dict(type=wrapper['constructor'], paramwise_cfg=wrapper.get('paramwise_cfg'))
            optimizer = dict(type='SGD', lr=0.02, weight_decay=1e-4)
            cfg['optim_wrapper_cfg'] = dict(optimizer=optimizer)
            built.add(type(OPTIM_WRAPPER_CONSTRUCTORS.build(cfg)).__name__)
    assert built == {
        'ActivationParamConstructor',
        'ActivationRegularizerHook',
        'LearnedActivationHook',
        'PWLURealignHook',
    }
