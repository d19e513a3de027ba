# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The page about all activations: its numbers, the tool, and the page in a browser."""

import copy
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from report_page import Page
from torch import nn

import mmact
from mmact.activations import PWLU, AconC, DyReLUB
from mmact.visualization import FunctionRecorder, Snapshot, family, watchable, write_report
from mmact.visualization.layers import evaluate
from mmact.visualization.snapshots import START_FILE, checkpoints_of, state_of

TOOL = Path(__file__).parents[2] / 'tools/analysis_tools/report.py'
RECORDS = {record.name: record for record in mmact.list_activations()}
MODULE = """
import torch
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn
from torch.utils.data import Dataset


@MODELS.register_module(force=True)
class ReportModel(BaseModel):
    def __init__(self, act_cfg):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.SyncBatchNorm(8), MODELS.build(act_cfg))
        self.head = nn.Sequential(nn.Linear(8, 4), MODELS.build(dict(type='AconC')))

    def forward(self, inputs, mode):
        assert mode == 'predict' and not self.training
        return list(self.head(self.backbone(inputs).mean((2, 3))))


@DATASETS.register_module(force=True)
class ReportDataset(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        return dict(inputs=torch.full((1, 6, 6), index / 6 - 1))
"""
CONFIG = """
custom_imports = dict(imports=['report_module', 'mmact'])
default_scope = 'mmengine'
model = dict(type='ReportModel', act_cfg=dict(type='PWLU'))
val_dataloader = dict(
    batch_size=2,
    dataset=dict(type='ReportDataset'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'))
"""


def all_activations() -> nn.Sequential:
    """A network with every activation of the list, moved from its start."""
    torch.manual_seed(0)
    net = nn.Sequential()
    for name, record in RECORDS.items():
        width = 16 if name == 'Maxout' else 8
        layers = nn.Conv2d(8, width, 3, padding=1), nn.BatchNorm2d(width), record.cls()
        net.add_module(name, nn.Sequential(*layers))
    return net.eval()


@torch.no_grad()
def moved(net: nn.Module, size: float = 0.05) -> nn.Module:
    net = copy.deepcopy(net)
    for layer in watchable(net).values():
        for p in layer.parameters():
            p.add_(size * torch.randn_like(p))
    return net


def recorded(net: nn.Module, start: nn.Module, batches: int = 2) -> FunctionRecorder:
    with FunctionRecorder(net, starts=watchable(start)) as recorder, torch.no_grad():
        for seed in range(batches):
            net(torch.randn(4, 8, 9, 9, generator=torch.Generator().manual_seed(seed)))
    return recorder


@pytest.fixture(scope='module')
def page(tmp_path_factory) -> Path:
    """A page with every activation, four times and a comparison."""
    start = all_activations()
    times = [start]
    for _ in range(4):
        times.append(moved(times[-1]))
    history = [Snapshot(f'iter {i}', watchable(net)) for i, net in enumerate(times[:-1])]
    return write_report(
        tmp_path_factory.mktemp('report') / 'page.html',
        times[-1],
        title='All <activations>',
        label='iter 4',
        recorded=recorded(times[-1], start),
        start=watchable(start),
        history=history,
        compare=history[1],
    )


# The numbers --------------------------------------------------------------------------------------


def test_every_activation_is_there(page):
    read = Page(page)
    assert set(read.layers) == {f'{name}.2' for name in RECORDS}
    assert read.meta['times'] == [f'iter {i}' for i in range(5)]
    for path, layer in read.layers.items():
        act = RECORDS[path.split('.')[0]]
        n = layer['functions']
        assert read.array(path, 'curves').shape == (n, 65)
        assert np.isfinite(read.array(path, 'curves')).all()
        assert read.array(path, 'hist').max() == 1
        assert layer['summary']['constant'] is not None
        assert (layer['summary']['distance'] is not None) == bool(act.num_parameters), path
        if act.num_parameters:
            assert 0 < layer['summary']['distance'] < layer['summary']['distance_worst'] + 1e-9
            assert layer['summary']['difference'] > 0
            assert read.array(path, 'history').shape == (4, n, 33)
            assert layer['past'][0][0] < 1e-5 < layer['past'][1][0], path
        dynamic = family(act.cls(num_channels=8)).names if 'conditions' in layer else []
        assert [c['name'] for c in layer.get('conditions', [])] == dynamic
    assert {p for p in read.layers if 'conditions' in read.layers[p]} == {
        f'{name}.2' for name in ('DyReLUA', 'DyReLUB', 'DyReLUC', 'FReLU', 'Maxout', 'MetaAconC')
    }


def test_nothing_is_loaded_and_no_text_ends_the_page(page):
    text = page.read_text()
    assert "default-src 'none'" in text
    assert not re.search(r'(src|href)\s*=|https?://|@import|fetch\(', text)
    assert text.count('</script>') == 3
    assert 'All <activations>' not in text


def test_curves_bounds_and_history_are_those_of_the_layers(tmp_path):
    start = nn.Sequential(nn.Conv2d(8, 6, 1), PWLU(num_intervals=8))
    now = moved(start, 0.3)
    history = [Snapshot('start', watchable(start))]
    write_report(
        tmp_path / 'page.html',
        now,
        start=watchable(start),
        history=history,
        recorded=recorded(now, start),
    )
    read = Page(tmp_path / 'page.html')
    low, high = read.layers['1']['x']
    x = torch.linspace(low, high, 65).double().expand(6, -1)
    for name, layer in (('curves', now[1]), ('start', start[1])):
        expected = evaluate(layer, x).detach().numpy()
        step = np.ptp(expected) / 65534
        assert np.abs(read.array('1', name) - expected).max() < step
    expected = evaluate(start[1], x[:, ::2]).numpy()
    assert np.abs(read.array('1', 'history')[0] - expected).max() < np.ptp(expected) / 254
    bounds = torch.stack([now[1].left_bound, now[1].right_bound], 1).detach().numpy()
    assert np.abs(read.array('1', 'bounds') - bounds).max() < 1e-3


def test_a_page_of_ten_thousand_functions_is_small(tmp_path):
    torch.manual_seed(0)
    layers = {f'l{i}': PWLU(2000) for i in range(5)}
    start = copy.deepcopy(layers)
    with torch.no_grad():
        for layer in layers.values():
            layer.points += 0.1 * torch.randn_like(layer.points)
    history = [Snapshot(f'{i}', layers) for i in range(4)]
    path = write_report(tmp_path / 'page.html', layers, start=start, history=history)
    # The history has room for 12 times, which cost 0.33 MB each, and a third more as text.
    assert path.stat().st_size + 8 * 0.44e6 < 20e6
    assert 'numbers' not in Page(path).layers['l0']


def test_of_a_larger_network_some_functions_and_times_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr('mmact.visualization.report._MAX_FUNCTIONS', 300)
    monkeypatch.setattr('mmact.visualization.report._MAX_PAST', 300 * 33 * 3)
    layers = {'a': PWLU(300), 'b': PWLU(100), 'c': PWLU(num_groups=1)}
    start = copy.deepcopy(layers)
    with torch.no_grad():
        # Channel i has moved by i.
        layers['a'].rows('points').add_(torch.arange(300).view(-1, 1) / 300)
    history = [Snapshot(f'{i}', layers) for i in range(9)]
    path = write_report(tmp_path / 'page.html', layers, start=start, history=history)
    read = Page(path)
    kept = {name: layer.get('numbers') for name, layer in read.layers.items()}
    assert len(kept['a']) == int(300 * 300 / 401)
    assert kept['a'][0] == 0  # the nearest and the farthest are among them
    assert kept['a'][-1] == 299
    assert len(kept['b']) == int(100 * 300 / 401)
    assert kept['c'] is None
    distance = read.array('a', 'distance')
    assert (np.diff(distance) > 0).all()
    assert read.meta['times'] == ['0', '4', '8', 'now']


def test_without_data_only_what_is_known_is_said(tmp_path):
    net = all_activations()
    read = Page(write_report(tmp_path / 'page.html', net, start=watchable(net)))
    assert 'No data were given' in read.meta['short']
    for layer in read.layers.values():
        assert layer['summary']['constant'] is None
        assert layer['summary']['outside'] is None
        assert not layer['measured']
    dynamic = read.array('DyReLUB.2', 'curves')
    low, high = read.layers['DyReLUB.2']['x']
    relu = np.maximum(np.linspace(low, high, 65), 0)
    assert np.abs(dynamic - relu).max() < 1e-3  # its start is ReLU


def test_a_model_without_activations_is_refused(tmp_path):
    with pytest.raises(ValueError, match='no activation that could be shown'):
        write_report(tmp_path / 'page.html', nn.Linear(2, 2))


def test_the_example_of_the_docs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (TOOL.parents[2] / 'docs/report.md').read_text()
    (block,) = re.findall(r'```python\n(.*?)```', text, re.S)
    exec(block, {})
    assert Page(tmp_path / 'report.html').layers['2']['summary']['distance'] == 0


# The tool -----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory of a training, and config.py beside it."""
    (tmp_path / 'report_module.py').write_text(MODULE)
    (tmp_path / 'config.py').write_text(CONFIG)
    monkeypatch.syspath_prepend(tmp_path)
    config = Config.fromfile(tmp_path / 'config.py')
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    work_dir = tmp_path / 'work'
    work_dir.mkdir()
    for epoch in (1, 2, 10):
        model = moved(model)
        saved = {'meta': {'cfg': config.pretty_text}, 'state_dict': model.state_dict()}
        torch.save(saved, work_dir / f'epoch_{epoch}.pth')
    torch.save(saved, work_dir / 'best_x_epoch_2.pth')
    torch.save(model.state_dict(), tmp_path / 'plain.pth')
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / 'relu.pth')
    return tmp_path


@pytest.fixture
def run(run_tool):
    """Runs the tool in this process: (exit status, standard output, standard error)."""
    return run_tool(TOOL)


def test_checkpoints_are_in_the_order_of_the_training(folder):
    names = [path.name for path in checkpoints_of(folder / 'work')]
    assert names == ['epoch_1.pth', 'epoch_2.pth', 'epoch_10.pth']
    assert checkpoints_of(folder / 'plain.pth') == [folder / 'plain.pth']


def test_a_training_with_data(folder, run):
    work = folder / 'work'
    status, out, err = run(work, '--data', 2, '--compare', work / 'epoch_1.pth')
    assert status == 0, err
    assert out.strip() == str(work / 'report.html')
    for what in ('reading', 'layers', 'batches', '[>>', ' MB, '):
        assert what in err
    read = Page(work / 'report.html')
    assert read.meta['times'] == ['start', 'epoch 1', 'epoch 2', 'epoch 10']
    assert read.meta['other'] == 'work/epoch_1.pth'
    pwlu, acon = read.layers['backbone.2'], read.layers['head.1']
    assert pwlu['measured']
    assert pwlu['summary']['distance'] > 0
    assert pwlu['summary']['difference'] > 0
    # Acon's slopes are drawn at random, and nothing has kept them.
    assert acon['summary']['distance'] is None
    assert '1 layers start at random' in read.meta['about']


def test_the_start_that_the_hook_kept(folder, run):
    torch.manual_seed(0)
    start = MODELS.build(Config.fromfile(folder / 'config.py').model)
    torch.save({'state_dict': state_of(watchable(start))}, folder / 'work' / START_FILE)
    assert run(folder / 'work/epoch_10.pth', '--out', folder / 'a.html')[0] == 0
    read = Page(folder / 'a.html')
    assert read.meta['times'] == ['start', 'epoch 10']
    assert read.layers['head.1']['summary']['distance'] > 0
    first = read.array('head.1', 'start')
    low, high = read.layers['head.1']['x']
    x = torch.linspace(low, high, 65).double().expand(4, -1)
    assert isinstance(start.head[1], AconC)
    np.testing.assert_allclose(first, evaluate(start.head[1], x).numpy(), atol=1e-3)


def test_a_plain_state_dict(folder, run):
    assert run(folder / 'plain.pth')[0] == 0
    read = Page(folder / 'report.html')
    assert list(read.layers) == ['backbone.2']  # PWLU alone says enough of itself
    assert read.layers['backbone.2']['summary']['distance'] > 0
    options = ('--config', folder / 'config.py', '--out', folder / 'all.html')
    assert run(folder / 'plain.pth', *options)[0] == 0
    assert list(Page(folder / 'all.html').layers) == ['backbone.2', 'head.1']


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['missing.pth'], 'missing.pth does not exist'),
        (['relu.pth'], 'relu.pth holds no learned activation'),
        (['.'], 'there is no epoch_N.pth or iter_N.pth in .'),
        (['plain.pth', '--data', '1'], 'give --config'),
        (['plain.pth', '--data', '-1'], '--data must be at least 0, got -1'),
        (
            ['work', '--data', '1', '--cfg-options', 'val_dataloader=None'],
            'needs a val_dataloader',
        ),
    ],
)
def test_errors_are_one_line(folder, run, monkeypatch, args, message):
    monkeypatch.chdir(folder)
    status, out, err = run(*args)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert '.html' not in out


# The page in a browser ----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    """Headless Chromium."""
    selenium = pytest.importorskip('selenium.webdriver', reason='selenium is not installed')
    from selenium.webdriver.chrome.service import Service

    programs = [shutil.which(name) for name in ('chromium', 'chromedriver')]
    if None in programs:
        pytest.skip('there is no chromium and chromedriver on the PATH')
    options = selenium.ChromeOptions()
    options.binary_location = programs[0]
    for flag in (
        *('headless', 'no-sandbox', 'disable-gpu', 'disable-quic', 'no-first-run'),
        *('disable-background-networking', 'disable-component-update', 'disable-sync'),
        *('window-size=800,900', f'user-data-dir={tmp_path_factory.mktemp("chromium")}'),
    ):
        options.add_argument(f'--{flag}')
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    driver = selenium.Chrome(options, Service(programs[1]))
    yield driver
    driver.quit()


class Viewer:
    """A page that is open in the browser."""

    def __init__(self, driver, page: Path) -> None:
        self.driver = driver
        driver.get(page.as_uri())
        end = time.monotonic() + 120
        while not self('return document.body.dataset.ready'):
            assert time.monotonic() < end, self.errors()
            time.sleep(0.05)

    def __call__(self, script: str):
        return self.driver.execute_script(script)

    def errors(self) -> list[str]:
        log = self.driver.get_log('browser')  # hints about speed are of this test's own reading
        return [entry['message'] for entry in log if entry['level'] == 'SEVERE']

    def text(self, name: str) -> str:
        return self.driver.find_element('id', name).text

    def picture(self, name: str) -> str:
        return self(f'return document.getElementById("{name}").toDataURL()')

    def click(self, selector: str) -> None:
        self.driver.find_element('css selector', selector).click()

    def choose(self, layer: str) -> None:
        rows = self.driver.find_elements('css selector', '#rows tr')
        self.driver.execute_script('arguments[0].click()', rows[self.layers().index(layer)])

    def layers(self) -> list[str]:
        return self(
            'return [...document.querySelectorAll("#rows td:first-child")].map(e => e.title)'
        )

    def slide(self, to: int) -> None:
        self(f"""const slider = document.getElementById('time'); slider.value = {to};
            slider.dispatchEvent(new Event('input'));""")


def test_the_page_opens_and_shows_every_layer(browser, page):
    view = Viewer(browser, page)
    assert view.text('title') == 'All <activations>'
    assert view.layers() == [f'{name}.2' for name in RECORDS]
    # All in one call: each would take longer than what it asks for.
    seen = view("""
        return [...document.querySelectorAll("#rows tr")].map(row => {
          row.click();
          const picture = document.getElementById("one");
          const bytes = picture.getContext("2d").getImageData(0, 0, picture.width, picture.height);
          return [document.getElementById("layer-title").textContent,
            !document.getElementById("conditions-box").hidden,
            bytes.data.reduce((sum, v, i) => (sum * 31 + v) % 1000003, 0)];
        });""")
    assert [name for name, _, _ in seen] == view.layers()
    found = Page(page).layers
    assert [shown for _, shown, _ in seen] == ['conditions' in found[name] for name, _, _ in seen]
    assert len({picture for _, _, picture in seen}) > 0.9 * len(RECORDS)
    assert view.errors() == []


def test_channels_and_times_change_the_pictures(browser, page):
    view = Viewer(browser, page)
    names = ('band', 'one', 'heat', 'history')
    for layer in ('DyReLUB.2', 'PWLU.2'):
        view.choose(layer)
        assert view.text('time-label') == 'iter 4'
        pictures = [view.picture(name) for name in names]
        view.slide(1)
        assert view.text('time-label') == 'iter 1'
        later = [view.picture(name) for name in names]
        assert all(a != b for a, b in zip(pictures, later, strict=True)), layer
        view.slide(4)
        assert [view.picture(name) for name in names] == pictures
    title, picture = view.text('one-title'), view.picture('one')
    view.click('#channel-next')
    assert view.text('one-title') != title
    assert view.picture('one') != picture
    view.click('#channel-back')
    assert view.picture('one') == picture
    assert view.errors() == []


def test_layers_are_sorted_and_found(browser, page):
    view = Viewer(browser, page)
    summary = {name: layer['summary'] for name, layer in Page(page).layers.items()}
    view('[...document.querySelectorAll("#heads th")].find(e => e.innerText == "distance").click()')
    found = [summary[name]['distance'] for name in view.layers()]
    known = [d for d in found if d is not None]
    assert known == sorted(known, reverse=True)
    assert found[: len(known)] == known
    view.driver.find_element('id', 'search').send_keys('dyrelu')
    shown = view('return [...document.querySelectorAll("#rows tr")].filter(e => !e.hidden).length')
    assert shown == 3
    assert view.errors() == []


def test_a_page_without_data_and_history_opens(browser, tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 4, 1), PWLU(), nn.Conv2d(4, 4, 1), DyReLUB())
    view = Viewer(browser, write_report(tmp_path / 'page.html', net))
    assert not view.driver.find_element('id', 'time-control').is_displayed()
    assert not view.driver.find_element('id', 'history-box').is_displayed()
    view.choose('3')
    assert view.text('layer-title') == '3'
    assert view.errors() == []
