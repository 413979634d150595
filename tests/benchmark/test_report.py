"""The benchmark's output: numbers and words of the tables, and the page in a real Chromium."""

import base64
import csv
import os
import re
import shutil
import subprocess
import sys
from html import unescape
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from basicsr_plugins.benchmark import figures, tables
from basicsr_plugins.benchmark import page as report
from basicsr_plugins.benchmark.page import write_report
from basicsr_plugins.benchmark.results import Results, Row
from basicsr_plugins.benchmark.tables import terminal_table, write_csv
from basicsr_plugins.errors import InputError

NASTY = 'A "b" </script><img src=x onerror=alert(1)> & \'c\'/d $x$'
CLIPS = ['walk', 'cafe & <bar>']
SIZES = {'frame': (96, 128), 'crop': (16, 24), 'profile': (5, 128)}
WINDOW = [32, 40, 16, 24]
METRICS = {
    'psnr': {'label': 'PSNR', 'unit': 'dB', 'better': 'higher', 'digits': 2},
    'tof': {'label': 'tOF', 'unit': 'px', 'better': 'lower', 'digits': 3},
}
CHROMIUM_ARGUMENTS = (
    '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
    '--disable-component-update --disable-sync'
)


def make_row(name, psnr=None, tof=None, **fields):
    clips = {} if psnr is None else {clip: {'psnr': psnr + i, 'tof': tof} for i, clip in enumerate(CLIPS)}
    average = {} if psnr is None else {'psnr': psnr, 'tof': tof}
    return Row(name, **{'clips': clips, 'average': average, **fields})


def make_results():
    rows = [
        make_row('Bicubic', 20.0, 1.5, params=0, macs=4.4e7, seconds_per_frame=0.0041, peak_memory=21e6),
        make_row('Broken', params=2.06e7, macs=4.4e7, error='no <weights> in x.pth'),
        make_row('Mid', 24.004, 0.5, params=6.8e6, macs=3.61e11, seconds_per_frame=3.05, peak_memory=1.18e9),
        make_row(NASTY, 24.001, 0.4, params=8.5e6, seconds_per_frame=12.5, random_weights=True),
        make_row('Paper', 30.0, 0.4, published=True, source='table <1>', params=1e5, seconds_per_frame=0.001, clips={}),
    ]
    return Results(
        title='Demo <set>',
        command='python scripts/benchmark.py --name "x & y"',
        commit='abc1234 (modified)',
        versions={'basicsr_plugins': '0.1.0', 'torch': '2.6'},
        machine={'processor': 'CPU <x>', 'gpu': None, 'threads': 2, 'system': 'Linux'},
        settings={
            'lq': 'lq',
            'gt': 'gt',
            'scale': 4,
            'channel': 'Y',
            'crop_border': 0,
            'frames': 'all',
            'device': 'cpu',
            'profile_size': [180, 320],
        },
        methods_note=['Time is a median.'],
        metrics=METRICS,
        clips=CLIPS,
        rows=rows,
        pictures={},
    )


def write_pictures(results, folder):
    """Write pictures of every measured method and list them in `results`; returns them by file name."""
    rng = np.random.default_rng(0)
    written = {}
    for number, clip in enumerate(CLIPS):
        methods = {}
        for i, name in enumerate(('Bicubic', 'Mid', NASTY, 'GT')):
            methods[name] = {kind: f'pictures/{number}_{i}_{kind}.png' for kind in SIZES}
            for kind, path in methods[name].items():
                written[path] = rng.integers(0, 256, (*SIZES[kind], 3), np.uint8)
        results.pictures[clip] = {'frame': '00000002', 'window': WINDOW, 'line': 48, 'methods': methods}
    (folder / 'pictures').mkdir()
    for path, picture in written.items():
        cv2.imwrite(str(folder / path), picture)
    return written


@pytest.fixture
def results():
    return make_results()


@pytest.fixture
def pictures(results, tmp_path):
    return write_pictures(results, tmp_path)


# ---------------------------------------------------------------- terminal and CSV


def test_terminal_table_has_the_numbers_in_their_units(results):
    lines = terminal_table(results, width=200).splitlines()
    cells = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert cells['Bicubic'] == ['0', '0.04', '4.1', 'ms', '21', '20.00', '1.500', '20.00', '1.500', '21.00', '1.500']
    assert cells['Mid'][:6] == ['6.80', '361.0', '3.05', 's', '1180', '24.00']
    header = lines[1]
    assert header.split()[:7] == ['method', 'params', '(M)', 'mult-adds', '(G)', 'time', 'memory']
    ends = [line.index(text) + 5 for line in lines for text in ('20.00', '24.00', '30.00') if text in line]
    assert ends == 4 * [header.index('PSNR') + 4]  # aligned: Bicubic, Mid, NASTY, Paper
    assert 'tOF in px (lower is better)' in lines[-1]


def test_terminal_table_sets_published_rows_apart_and_gives_reasons(results):
    lines = terminal_table(results, width=200).splitlines()
    starts = [line.split('  ')[0] for line in lines]
    heading = lines.index('-- published, not measured here: table <1>')
    assert starts[heading + 1] == 'Paper'
    assert heading > max(starts.index(name) for name in ('Bicubic', 'Mid', 'Broken'))
    assert lines[starts.index('Broken') + 1].strip() == 'failed: no <weights> in x.pth'
    assert f'{NASTY} (random weights)' in starts


def test_clips_that_do_not_fit_go_to_further_tables(results):
    wide, narrow = terminal_table(results, width=200), terminal_table(results, width=140)
    assert len(wide.split('\n\n')) == 2
    first, second, _ = narrow.split('\n\n')
    assert all(len(line) <= 140 for line in narrow.splitlines())
    assert 'cafe' in second
    assert 'cafe' not in first
    assert '25.00' in second  # the second clip of Mid
    assert 'Broken' not in second  # nothing to say there
    assert 'Paper' not in second


def test_published_averages_that_are_not_the_means_of_their_clips_are_marked(results, tmp_path):
    results.rows[4].clip_means = {'psnr': 29.875}
    note = '* Paper in table <1>: the published average PSNR is 30.00, but the mean of its clips is 29.875.'
    *_, notes, metrics = terminal_table(results, width=200).splitlines()
    assert notes == note
    assert metrics.startswith('PSNR in dB')
    shown = [line.split() for line in terminal_table(results, width=200).splitlines() if line.startswith('Paper')]
    assert [[cell for cell in line if '*' in cell] for line in shown] == [['30.00*']]
    html = write_report(results, tmp_path).read_text(encoding='utf-8')
    assert html.count(note.replace('<1>', '&lt;1&gt;')) == 1
    assert '<td data-order="30.0" class="first">30.00*</td>' in html
    write_csv(results, tmp_path / 'results.csv')
    assert '*' not in (tmp_path / 'results.csv').read_text()


@pytest.mark.parametrize(
    ('value', 'digits', 'text'), [(0, 2, '0'), (6.789, 2, '6.79'), (0.0012, 2, '0.001'), (1650, 1, '1650.0')]
)
def test_what_is_not_zero_does_not_read_as_zero(value, digits, text):
    assert tables.fixed(value, digits) == text


def test_csv_has_every_method_and_clip_at_full_precision(results, tmp_path):
    path = tmp_path / 'results.csv'
    write_csv(results, path)
    with open(path, newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert [row['clip'] for row in rows] == [*CLIPS, 'average'] * 5
    by_key = {(row['method'], row['clip']): row for row in rows}
    assert by_key[NASTY, CLIPS[1]]['psnr'] == '25.001'
    assert float(by_key['Mid', 'average']['macs']) == 3.61e11
    assert by_key['Paper', 'average']['psnr'] == '30.0'
    assert by_key['Paper', CLIPS[0]]['psnr'] == ''
    assert [by_key[name, 'average']['published'] for name in ('Mid', 'Paper')] == ['False', 'True']
    assert by_key['Paper', 'average']['source'] == 'table <1>'
    assert by_key['Broken', CLIPS[0]]['error'] == 'no <weights> in x.pth'
    assert [path.name for path in tmp_path.iterdir()] == ['results.csv']


# ---------------------------------------------------------------- page


def test_settings_are_told_in_a_sentence(results):
    assert report.settings_sentence(results) == (
        'PSNR and tOF at ×4 on the Y channel, with no border cut off; frames: all. '
        'Multiply-adds, time and memory are for an input of 320 × 180 px on the CPU.'
    )
    results.settings.update(channel='RGB', crop_border=8, frames='all of the first 20', profile_size=None)
    assert report.settings_sentence(results) == (
        'PSNR and tOF at ×4 in RGB, with 8 px cut off each border; frames: all of the first 20. '
        'Costs were not measured.'
    )


def bold_cells(page):
    return [unescape(text) for text in re.findall(r'<strong>(.*?)</strong>', page)]


def test_best_measured_value_is_bold_and_a_published_one_never(results, tmp_path):
    page = write_report(results, tmp_path).read_text(encoding='utf-8')
    # Mid and NASTY are 0.003 dB apart, which both read 24.00; NASTY has random weights and wins in cost alone
    row = dict(re.findall(r'data-order="(Bicubic|Broken|Mid|Paper)">(.*?)</tr>', page, re.DOTALL))
    assert bold_cells(row['Bicubic']) == ['0', '0.04', '4.1 ms', '21']
    assert bold_cells(row['Mid']) == ['24.00', '0.500', '24.00', '0.500', '25.00', '0.500']
    assert bold_cells(row['Paper']) == []  # though it is better, or reads as the best measured one
    assert bold_cells(row['Broken']) == []
    assert '0.400' not in bold_cells(page)  # the best tOF, of random weights


def test_values_without_end_or_number_are_sorted_and_shown(results, tmp_path):
    results.rows[0].average['psnr'] = float('inf')  # what restores GT itself
    results.rows[2].average['psnr'] = float('nan')
    page = write_report(results, tmp_path).read_text(encoding='utf-8')
    assert '<td data-order="Infinity" class="first"><strong>inf</strong></td>' in page
    assert 'nan' not in re.findall(r'<tbody>(.*)</tbody>', page, re.DOTALL)[0]


def test_page_escapes_names_and_reaches_for_nothing(results, pictures, tmp_path):
    page = write_report(results, tmp_path).read_text(encoding='utf-8')
    assert '<img src=x' not in page
    assert page.count('</script>') == 1
    assert 'no &lt;weights&gt; in x.pth' in page
    assert not re.search(r'(https?:)?//[a-z]', re.sub(r'data:image/\S+', '', page))
    assert not list(tmp_path.glob('.*'))
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def decode(uri):
    return cv2.imdecode(np.frombuffer(base64.b64decode(uri), np.uint8), cv2.IMREAD_COLOR)


def test_every_picture_is_in_the_page_once_without_loss(results, pictures, tmp_path):
    page = write_report(results, tmp_path).read_text(encoding='utf-8')
    embedded = [decode(uri).tobytes() for uri in re.findall(r'data:image/webp;base64,([^"]*)', page)]
    assert sorted(embedded) == sorted(picture.tobytes() for picture in pictures.values())
    assert page.count('All pictures are lossless.') == 2


def test_large_frames_are_compressed_and_the_page_says_so(results, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(report, 'LARGEST_LOSSLESS', 96 * 128 - 1)
    page = write_report(results, tmp_path).read_text(encoding='utf-8')
    embedded = {decode(uri).tobytes() for uri in re.findall(r'data:image/webp;base64,([^"]*)', page)}
    for path, picture in pictures.items():
        assert (picture.tobytes() in embedded) == ('_frame' not in path)
    assert page.count('WebP, quality 95') == 2


def test_missing_damaged_and_unfitting_pictures_are_named(results, pictures, tmp_path):
    write_report(results, tmp_path)
    before = (tmp_path / 'report.html').read_bytes()
    path = tmp_path / 'pictures' / '1_2_crop.png'
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r'1_2_crop\.png is damaged'):
        write_report(results, tmp_path)
    path.write_bytes(b'')
    with pytest.raises(InputError, match=r'1_2_crop\.png is damaged'):
        write_report(results, tmp_path)
    cv2.imwrite(str(path), np.zeros((16, 25, 3), np.uint8))
    with pytest.raises(InputError, match=r'1_2_crop\.png should be 16 x 24 pixels, but is 16 x 25'):
        write_report(results, tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r'1_2_crop\.png cannot be read'):
        write_report(results, tmp_path)
    assert (tmp_path / 'report.html').read_bytes() == before


def test_zero_has_a_place_on_a_logarithmic_axis(results):
    time, params = (plot['svg'] for plot in figures.scatter_plots(results))
    assert 'Paper' in time  # 0.1 M beside 8.5 M: logarithmic, and Bicubic has none
    ticks = re.findall(r'params-xtick_\d+.*?<text[^>]*>([^<]*)</text>', params, re.DOTALL)
    assert ticks[0] == '0'
    assert ticks[-1] == '10'
    assert 'Broken' not in params
    assert 'Broken' not in time


def test_labels_cover_neither_points_nor_each_other():
    centres = [(100 + 14 * i, 100 + 7 * i) for i in range(4)]
    sizes = [(60, 11)] * 4
    places = figures.arrange_labels(centres, sizes, (0, 0, 300, 200))
    boxes = [figures.label_boxes(*each, *place)[0] for *each, place in zip(centres, sizes, places)]
    markers = [(x - 4, y - 4, x + 4, y + 4) for x, y in centres]
    for i, box in enumerate(boxes):
        assert all(figures.overlap(box, other) < 1 for other in boxes[:i] + markers)
        assert figures.overlap(box, (0, 0, 300, 200)) == pytest.approx(64 * 15)


# ---------------------------------------------------------------- page in a browser


@pytest.fixture(scope='module')
def chromium():
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    names = (os.environ.get('CHROMIUM'), 'chromium', 'chromium-browser', 'google-chrome')
    path = next(filter(None, (shutil.which(name) for name in names if name)), None)
    if path is None:
        pytest.skip('there is no Chromium; install one or set CHROMIUM to its path')
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS.split())
        yield browser
        browser.close()


@pytest.fixture(scope='module')
def address(tmp_path_factory):
    """Where the report of `make_results` is."""
    folder, results = tmp_path_factory.mktemp('report'), make_results()
    write_pictures(results, folder)
    return write_report(results, folder).as_uri()


@pytest.fixture
def page(chromium, address):
    """The report, opened; fails the test that used it if the page complained or asked the network."""
    page = chromium.new_page(viewport={'width': 1280, 'height': 900})
    complaints, requests = [], []
    page.on('console', lambda message: complaints.append(message.text) if message.type != 'log' else None)
    page.on('pageerror', lambda error: complaints.append(str(error)))
    page.on('request', lambda request: requests.append(request.url))
    page.set_default_timeout(30_000)
    page.goto(address)
    yield page
    page.close()
    assert complaints == []
    assert {urlsplit(url).scheme for url in requests} <= {'file', 'data'}


def method_names(page):
    return page.eval_on_selector_all('tbody th', 'cells => cells.map(cell => cell.dataset.order)')


def test_clicking_a_header_sorts(page):
    assert method_names(page) == ['Bicubic', 'Mid', NASTY, 'Paper', 'Broken']
    params = page.locator('thead button', has_text='params')
    header = params.locator('xpath=..')
    params.click()
    assert method_names(page) == ['Bicubic', 'Paper', 'Mid', NASTY, 'Broken']
    assert header.get_attribute('aria-sort') == 'ascending'
    params.click()
    assert method_names(page) == [NASTY, 'Mid', 'Paper', 'Bicubic', 'Broken']  # failed last, though it has the most
    assert header.get_attribute('aria-sort') == 'descending'


def test_keys_sort_and_missing_values_stay_last(page):
    page.locator('thead button', has_text='mult-adds').focus()
    page.keyboard.press('Enter')
    assert method_names(page) == ['Bicubic', 'Mid', NASTY, 'Paper', 'Broken']
    page.keyboard.press('Space')
    assert method_names(page) == ['Mid', 'Bicubic', NASTY, 'Paper', 'Broken']
    page.locator('thead button', has_text='method').press('Enter')
    assert method_names(page) == [NASTY, 'Bicubic', 'Mid', 'Paper', 'Broken']
    page.locator('thead button', has_text='PSNR').first.press('Enter')  # the best first
    assert method_names(page) == ['Paper', 'Mid', NASTY, 'Bicubic', 'Broken']
    assert page.locator('[aria-sort=descending]').count() == 1
    assert page.locator('[aria-sort=ascending]').count() == 0


def test_published_rows_can_be_hidden(page):
    published = page.locator('tbody tr', has_text='Paper')
    label = page.locator('svg text', has_text='Paper').first
    assert published.is_visible()
    assert label.is_visible()
    page.get_by_label('show published numbers').uncheck()
    assert not published.is_visible()
    assert not label.is_visible()
    assert page.locator('tbody tr', has_text='Mid').is_visible()


def covered(page):
    """Up to which part of the frame the left picture of the first slider shows, in percent."""
    image = page.locator('.stage').first.locator('img.left')
    clip = image.evaluate('image => getComputedStyle(image).clipPath')  # such as inset(0px calc(100% - 60%) 0px 0px)
    return 100 - float(
        image.evaluate(
            """(image, right) => {
            const probe = document.createElement('div');
            image.parentElement.append(probe);
            probe.style.cssText = `position: absolute; left: 0; width: ${right}`;
            const part = probe.getBoundingClientRect().width / image.getBoundingClientRect().width;
            probe.remove();
            return 100 * part;
        }""",
            re.fullmatch(r'inset\(0px (.*) 0px 0px\)', clip)[1],
        )
    )


def test_slider_moves_by_keys(page):
    handle = page.locator('.stage input').first
    assert covered(page) == pytest.approx(50)
    handle.focus()
    for _ in range(10):
        page.keyboard.press('ArrowRight')
    assert covered(page) == pytest.approx(60)
    page.keyboard.press('Home')
    assert covered(page) == pytest.approx(0)
    page.keyboard.press('ArrowLeft')
    assert covered(page) == pytest.approx(0)
    assert handle.get_attribute('aria-valuetext').startswith('0 % Bicubic')


def test_slider_is_dragged_by_the_mouse(page):
    stage = page.locator('.stage').first
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    y = box['y'] + box['height'] / 2
    page.mouse.move(box['x'] + box['width'] * 0.5, y)
    page.mouse.down()
    page.mouse.move(box['x'] + box['width'] * 0.25, y, steps=4)
    assert covered(page) == pytest.approx(25, abs=0.5)
    page.mouse.move(box['x'] + box['width'] + 80, y)  # beyond the border
    assert covered(page) == pytest.approx(100)
    handle = page.locator('.handle').first.bounding_box()
    assert handle['x'] + handle['width'] / 2 == pytest.approx(box['x'] + box['width'], abs=0.5)
    page.mouse.up()
    page.mouse.move(box['x'] + box['width'] * 0.5, y)
    assert covered(page) == pytest.approx(100)
    page.keyboard.press('ArrowLeft')  # the drag left the focus on the handle
    assert covered(page) == pytest.approx(99, abs=0.01)


def test_slider_is_dragged_by_a_finger(chromium, address):
    page = chromium.new_page(has_touch=True, viewport={'width': 390, 'height': 844})
    page.goto(address)
    stage = page.locator('.stage').first
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    finger = page.context.new_cdp_session(page)
    for kind, part in (('touchStart', 0.5), ('touchMove', 0.6), ('touchMove', 0.8), ('touchEnd', None)):
        point = {'x': box['x'] + box['width'] * (part or 0), 'y': box['y'] + box['height'] / 2}
        finger.send('Input.dispatchTouchEvent', {'type': kind, 'touchPoints': [point] if part else []})
    assert covered(page) == pytest.approx(80, abs=0.5)
    page.close()


def test_slider_shows_the_chosen_methods(page):
    clip = page.locator('.clip').first
    shown = lambda: [clip.locator(f'output.{side}').text_content() for side in ('left', 'right')]  # noqa: E731
    assert shown() == ['Bicubic', 'Mid']  # the first and the best, not the published one
    clip.locator('.crops button').nth(3).click()
    assert shown() == ['Bicubic', 'GT']
    clip.locator('.crops button').nth(2).press('Enter')
    assert shown() == ['Bicubic', NASTY]
    clip.locator('.crops button').nth(3).click(modifiers=['Shift'])
    assert shown() == ['GT', NASTY]
    clip.locator('.crops button').nth(3).click()  # it was on the left: they change places
    assert shown() == [NASTY, 'GT']
    clip.locator('select').first.select_option('Bicubic')
    assert shown() == ['Bicubic', 'GT']
    visible = clip.locator('.stage img:visible')
    assert [visible.nth(i).get_attribute('alt') for i in range(visible.count())] == [
        'Frame by Bicubic',
        'Frame by GT',
    ]


def test_window_lies_on_the_crop_and_crops_are_whole_multiples(page):
    stage, window = (page.locator(name).first.bounding_box() for name in ('.stage', '.window'))
    zoom = stage['width'] / SIZES['frame'][1]
    expected = [stage['y'] + 32 * zoom, stage['x'] + 40 * zoom, 16 * zoom, 24 * zoom]
    assert [window[key] for key in ('y', 'x', 'height', 'width')] == pytest.approx(expected, abs=0.5)
    crop = page.locator('.crops img').first.bounding_box()
    assert (crop['width'], crop['height']) == (240, 160)


@pytest.mark.parametrize('width', [360, 390, 1280])
def test_page_never_scrolls_sideways(page, width):
    page.set_viewport_size({'width': width, 'height': 740})
    root = page.evaluate('[document.documentElement.scrollWidth, document.documentElement.clientWidth]')
    assert root == [width, width] or root[0] <= root[1]
    if width < 500:
        inner, outer = page.evaluate('(box => [box.scrollWidth, box.clientWidth])(document.querySelector(".scroll"))')
        assert inner > outer  # the table scrolls instead


def test_page_shows_its_content_without_scripts(chromium, address):
    page = chromium.new_page(java_script_enabled=False)
    page.goto(address)
    for selector in ('table', '.plot svg', '.crops img', '.profiles img'):
        assert page.locator(selector).first.is_visible()
    assert not page.locator('.stage').first.is_visible()
    page.close()


# ---------------------------------------------------------------- imports


def test_report_needs_neither_torch_nor_basicsr():
    code = 'import sys, basicsr_plugins.benchmark.page; print([n for n in ("torch", "basicsr") if n in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'
