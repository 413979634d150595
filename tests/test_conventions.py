"""What holds for every file of the project: words, hints, lengths, imports."""

import ast
import re
import subprocess

import pytest

from .conftest import PROJECT

PACKAGE = PROJECT / 'basicsr_plugins'
MODULES = sorted(PACKAGE.rglob('*.py'))
TEXTS = [PROJECT / 'README.md', *sorted((PROJECT / 'docs').rglob('*.md')), *MODULES]
# house words for which the field has its own: fix, interface, buffer on disk, write
BANNED = re.compile(r'\b(?:mend(?:s|ed|ing)?|doors?|spools?|spooled|puts? out)\b', re.IGNORECASE)
MACHINE_PATH = re.compile(r'(?<![\w.~*}])/(?:home|root|work|Users|mnt|media)/\w')
# this package by layers: a module imports from its own layer and from those below it
LAYERS = (
    ('__main__',),
    ('commands',),
    ('benchmark',),
    ('upscaling_shared',),
    ('upscaling',),
    ('upscaling_run',),
    ('output_size',),
    ('inference', 'video'),
    ('models',),
    ('data', 'archs', 'metrics'),
    ('ops', 'compat', 'option_agreement', 'option_file', 'option_schema'),
    ('_autoload', 'errors', 'files', 'memory', 'refusals', 'scales'),
)
STRANGERS = ({'inference', 'video'}, {'archs', 'data'})  # pairs of one layer that know nothing of each other


def relative(path):
    return path.relative_to(PROJECT).as_posix()


def lines_with(pattern, paths):
    """`file:line: text` of every line that the pattern occurs in."""
    return [
        f'{relative(path)}:{number}: {line.strip()}'
        for path in paths
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1)
        if pattern.search(line)
    ]


def public_functions(tree):
    """(name, node) of functions, and of methods of classes, that do not begin with an underscore; `__init__` counts."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if not node.name.startswith('_'):
                yield node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and (method.name == '__init__' or method.name[0] != '_'):
                    yield f'{node.name}.{method.name}', method


def lacks_hints(name, node):
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    static = any(isinstance(d, ast.Name) and d.id == 'staticmethod' for d in node.decorator_list)
    if arguments and arguments[0].arg == 'ctx':  # PyTorch's own interface of functions with a gradient
        return False
    if '.' in name and not static:
        arguments = arguments[1:]  # self or cls
    returns = node.returns is not None or node.name == '__init__'
    return not returns or any(argument.annotation is None for argument in arguments)


def imported_rooms(tree):
    """The first parts below `basicsr_plugins` of what a module imports, wherever in it."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = (
                [node.module] if node.module != 'basicsr_plugins' else [f'{node.module}.{a.name}' for a in node.names]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith('basicsr_plugins.') and not name.endswith('__version__'):
                yield name.split('.')[1]


def layer(room):
    return next(number for number, rooms in enumerate(LAYERS) if room in rooms)


def test_words():
    assert lines_with(BANNED, TEXTS) == []


def test_no_paths_of_a_machine():
    tracked = subprocess.run(['git', 'ls-files'], cwd=PROJECT, capture_output=True, text=True)
    if tracked.returncode != 0:
        pytest.skip('this is no git checkout')
    binary = ('.png', '.safetensors', '.jpg', '.mp4')
    paths = [PROJECT / line for line in tracked.stdout.splitlines() if not line.endswith(binary)]
    assert (
        lines_with(MACHINE_PATH, [path for path in paths if path.is_file() and path.name != 'test_conventions.py'])
        == []
    )


def test_public_functions_have_type_hints():
    missing = [
        f'{relative(path)}: {name}'
        for path in MODULES
        for name, node in public_functions(ast.parse(path.read_text(encoding='utf-8')))
        if lacks_hints(name, node)
    ]
    assert missing == []


def test_files_are_short():
    paths = [*MODULES, *sorted((PROJECT / 'scripts').rglob('*.py'))]
    lengths = {relative(path): len(path.read_text(encoding='utf-8').splitlines()) for path in paths}
    assert {name: length for name, length in lengths.items() if length >= 400} == {}
    assert len((PROJECT / 'README.md').read_text(encoding='utf-8').splitlines()) <= 150


def test_no_mock_in_the_package():
    assert lines_with(re.compile(r'^\s*(?:from unittest|import unittest|from mock|import mock)'), MODULES) == []


def test_imports_point_one_way():
    wrong = []
    for path in MODULES:
        room = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
        if room == '__init__':
            continue
        for other in imported_rooms(ast.parse(path.read_text(encoding='utf-8'))):
            strangers = any({room, other} == pair for pair in STRANGERS)
            hook = {room, other} == {'_autoload', 'compat'}  # it applies compat, which asks it for the classes
            if not hook and (strangers or layer(other) < layer(room)):
                wrong.append(f'{relative(path)} imports {other}')
    assert sorted(set(wrong)) == []


def test_every_link_of_the_documents_leads_somewhere():
    """Links and pictures to files of the project; headings are checked where a link names one."""
    broken = []
    documents = [path for path in TEXTS if path.suffix == '.md'] + [
        PROJECT / 'CHANGELOG.md',
        PROJECT / 'CONTRIBUTING.md',
    ]
    for path in documents:
        for target in re.findall(r'\]\(([^)\s]+)\)', path.read_text(encoding='utf-8')):
            if re.match(r'[a-z]+:', target):
                continue
            name, _, heading = target.partition('#')
            file = (path.parent / name) if name else path
            if not file.exists() or (heading and heading not in headings(file)):
                broken.append(f'{relative(path)}: {target}')
    assert broken == []


def headings(path):
    """The anchors of a Markdown file's headings."""
    text = re.sub(r'^```.*?^```', '', path.read_text(encoding='utf-8'), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r'^#+ (.*)$', text, flags=re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', title).strip().lower().replace(' ', '-') for title in titles}


def test_files_that_texts_name_are_there():
    missing = []
    for path in [*TEXTS, *sorted((PROJECT / 'scripts').rglob('*')), *sorted((PROJECT / 'options').glob('*.yml'))]:
        if path.suffix in ('.md', '.py', '.sh', '.yml'):
            names = re.findall(
                r'(?<!\w/)\b(?:docs|scripts|options|tests)/[\w/-]+\.(?:md|py|sh|yml)\b', path.read_text('utf-8')
            )
            missing += [f'{relative(path)}: {name}' for name in names if not (PROJECT / name).is_file()]
    assert missing == ['options/train_BasicVSR_REDS.yml: options/train/BasicVSR/train_BasicVSR_REDS.yml']  # BasicSR's


def test_every_patch_of_basicsr_is_in_the_table_of_the_docs():
    tables = {}
    for path in sorted((PACKAGE / 'compat').glob('*.py')):
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == 'PATCHES':
                tables[path.name] = [element.id for element in node.value.elts]
    patches = [name for names in tables.values() for name in names]
    assert len(patches) >= 19
    text = (PROJECT / 'docs' / 'compat.md').read_text(encoding='utf-8')
    listed = [
        name for row in re.findall(r'^\| (`.*?) \|', text, flags=re.MULTILINE) for name in re.findall(r'`(\w+)`', row)
    ]
    assert sorted(listed) == sorted(patches)
