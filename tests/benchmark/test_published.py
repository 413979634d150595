"""Published numbers: which rows of the tables stand beside which clips, and with which averages."""

import pytest

from basicsr_plugins.benchmark.published import read_published
from basicsr_plugins.errors import InputError

VID4 = ['calendar', 'city', 'foliage', 'walk']
REDS4 = ['000', '011', '015', '020']


@pytest.fixture
def table(tmp_path):
    """Write a table; its path."""

    def write(text, encoding='utf-8'):
        path = tmp_path / 'table.csv'
        path.write_bytes(text.encode(encoding))
        return path

    return write


class TestTablesOfPapers:
    @pytest.fixture(scope='class')
    def reference(self, shared):
        return shared / 'reference'

    def test_all_clips_take_the_published_average(self, reference):
        rows = read_published([reference / 'published_vid4.csv'], VID4)
        assert len(rows) == 11
        bicubic = rows[0]
        assert bicubic.name == 'Bicubic'
        assert bicubic.source == 'MSFFN paper table I (Y), BI'
        assert bicubic.clips['city'] == {'psnr': 25.16, 'ssim': 0.6028}
        assert bicubic.average == {'psnr': 23.78, 'ssim': 0.6347}
        tdan = next(row for row in rows if row.name == 'TDAN')
        assert tdan.average == {'psnr': 26.42, 'ssim': 0.7890}
        assert tdan.clips == {}
        assert tdan.params is None

    def test_some_clips_take_the_mean_over_just_these(self, reference):
        rows = read_published([reference / 'published_vid4.csv'], ['calendar', 'city'])
        assert [row.name for row in rows] == ['Bicubic', 'TOFlow', 'RBPN', 'EDVR (same size)', 'MSFFN']
        msffn = rows[-1]
        assert list(msffn.clips) == ['calendar', 'city']
        assert msffn.average == {
            'psnr': pytest.approx((24.06 + 27.81) / 2),
            'ssim': pytest.approx((0.8117 + 0.8050) / 2),
        }
        assert msffn.params == 8_500_000

    def test_clips_of_which_a_table_has_only_some_have_no_average(self, reference):
        (bicubic, *_) = read_published([reference / 'published_vid4.csv'], ['city', 'mine'])
        assert bicubic.clips == {'city': {'psnr': 25.16, 'ssim': 0.6028}}
        assert bicubic.average == {}

    def test_clips_with_numbers_for_names(self, reference):
        rows = read_published([reference / 'published_reds4.csv'], REDS4)
        assert len(rows) == 11
        efar = next(row for row in rows if row.name == 'EFAR')
        assert efar.source == 'EFAR paper table 1 (RGB), trained on 15 frames'
        assert efar.clips['011'] == {'psnr': 32.85, 'ssim': 0.9026}
        assert efar.average == {'psnr': 31.71, 'ssim': 0.8954}

    def test_averages_of_the_efar_paper_that_are_not_the_means_of_its_clips(self, reference):
        rows = read_published([reference / 'published_reds4.csv'], REDS4)
        marked = {(row.name, row.source[11:18]): row.clip_means for row in rows if 'psnr' in row.clip_means}
        assert {key: (pytest.approx(value['psnr'])) for key, value in marked.items()} == {
            ('Bicubic', 'table 2'): 26.135,
            ('BasicVSR', 'table 1'): 31.3925,
        }
        assert [row.average['psnr'] for row in rows if 'psnr' in row.clip_means] == [31.42, 26.41]

    def test_running_times_bear_on_any_clips(self, reference):
        rows = read_published([reference / 'published_runtime.csv'], ['mine'])
        edvr = next(row for row in rows if row.name == 'EDVR-M')
        assert len(rows) == 10
        assert edvr.seconds_per_frame == pytest.approx(0.118)
        assert edvr.params == 3_300_000
        assert edvr.source == 'survey table 1, 180x320 to 720x1280'
        assert edvr.average == {}

    def test_tables_of_other_clips_are_left_out(self, reference):
        assert read_published([reference / 'published_vid4.csv', reference / 'published_reds4.csv'], ['mine']) == []

    def test_every_row_is_marked_and_names_its_source(self, reference):
        rows = read_published(sorted(reference.glob('published_*.csv')), VID4)
        assert len(rows) == 21
        for row in rows:
            assert row.published is True
            assert row.source.startswith(('MSFFN paper table', 'survey table'))
            assert row.checkpoint is row.error is row.macs is row.peak_memory is None
            assert row.random_weights is False


def test_averages_that_are_not_the_means_of_their_clips_are_marked(table):
    """Beyond what rounding to the decimals that are written explains: 20.005 and 30.004 read 20.01 and 30.00."""
    head = 'source,method,a_psnr,a_ssim,b_psnr,b_ssim,avg_psnr,avg_ssim\n'
    rows = ['X,20,0.5,30,0.6,25.01,0.55', 'Y,20.00,0.5,30.00,0.6,25.02,0.5500', 'Z,20.00,0.5000,30.00,0.6000,,0.5502']
    x, y, z = read_published([table(head + ''.join(f'paper,{row}\n' for row in rows))], ['a', 'b'])
    assert (x.clip_means, x.average) == ({}, {'psnr': 25.01, 'ssim': 0.55})
    assert (y.clip_means, y.average) == ({'psnr': 25.0}, {'psnr': 25.02, 'ssim': 0.55})
    assert z.clip_means == {'ssim': pytest.approx(0.55)}
    path = table(head + f'paper,{rows[1]}\n')
    assert read_published([path], ['a'])[0].clip_means == {}  # there the average is ours, over that clip


def test_a_clip_whose_name_begins_with_c_keeps_it(table):
    path = table('source,method,city_psnr,c011_psnr,cats3_psnr\npaper,X,1,2,3\n')
    (row,) = read_published([path], ['city', '011', 'cats3'])
    assert row.clips == {'city': {'psnr': 1.0}, '011': {'psnr': 2.0}, 'cats3': {'psnr': 3.0}}


def test_an_average_needs_every_clip(table):
    path = table('source,method,a_psnr,a_ssim,b_psnr,b_ssim,d_psnr,avg_psnr\npaper,X,20,0.5,30,,40,30\n')
    (row,) = read_published([path], ['a', 'b'])
    assert row.average == {'psnr': 25.0}
    assert row.clips == {'a': {'psnr': 20.0, 'ssim': 0.5}, 'b': {'psnr': 30.0}}


def test_a_spreadsheets_byte_order_mark_and_short_lines(table):
    path = table('source,method,a_psnr,a_ssim\npaper,X,20\n', encoding='utf-8-sig')
    (row,) = read_published([path], ['a'])
    assert (row.source, row.clips) == ('paper', {'a': {'psnr': 20.0}})


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('method,a_psnr\nX,20\n', 'has no column source'),
        ('source,a_psnr\npaper,20\n', 'has no column method'),
        ('', 'has no column source'),
        ('source,method,a_psnr\npaper,X,20\npaper,Y,good\n', "table.csv, line 3: a_psnr is 'good'"),
        ('source,method,a_psnr\npaper,X,nan\n', "line 2: a_psnr is 'nan'"),
        ('source,method,a_psnr,params_m\npaper,X,1,5M\n', "params_m is '5M'"),
    ],
)
def test_errors_name_file_line_and_column(table, text, message):
    with pytest.raises(InputError, match=r'published table .*table\.csv') as error:
        read_published([table(text)], ['a'])
    assert message in str(error.value)


def test_files_that_cannot_be_read(table, tmp_path):
    with pytest.raises(InputError, match=r'nothing.csv: No such file'):
        read_published([tmp_path / 'nothing.csv'], ['a'])
    with pytest.raises(InputError, match='is not a CSV file in UTF-8'):
        read_published([table('source,method\nMüller,X\n', encoding='latin-1')], ['a'])
