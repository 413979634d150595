"""Packaging of basicsr_plugins. Besides the package it installs `basicsr_plugins_autoload.pth` into site-packages."""

from pathlib import Path

from setuptools import Distribution, find_packages, setup  # isort: skip  # brings its own distutils, so it comes first
from distutils.command.install_data import install_data  # isort: skip


class InstallPthFile(install_data):
    """Put `data_files` into site-packages, where Python reads `.pth` files, and not under `sys.prefix`.

    `bdist_wheel` and `editable_wheel` run this command and give `install` its purelib folder, so
    `pip install .`, `pip install -e .` and a built wheel carry the file, and `pip uninstall` removes it.
    """

    def finalize_options(self):
        super().finalize_options()
        self.install_dir = self.get_finalized_command('install').install_purelib


class DistributionWithData(Distribution):
    """`editable_wheel` asks the distribution `has_data()` before it runs `install_data`; no setuptools defines it."""

    has_data = Distribution.has_data_files


def read_version():
    init = Path(__file__).parent / 'basicsr_plugins' / '__init__.py'
    line = next(text for text in init.read_text(encoding='utf-8').splitlines() if text.startswith('__version__'))
    return line.split('=')[1].strip().strip('\'"')


setup(
    name='basicsr-plugins',
    version=read_version(),
    description='Video super-resolution for BasicSR: EFAR and its relatives, trained, compared and run in the toolbox',
    long_description=(Path(__file__).parent / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='The basicsr_plugins authors',
    keywords=['super-resolution', 'video', 'video super-resolution', 'BasicSR', 'PyTorch', 'EFAR', 'BasicVSR'],
    project_urls={'Toolbox': 'https://github.com/XPixelGroup/BasicSR'},
    license='Apache-2.0',
    packages=find_packages(include=['basicsr_plugins', 'basicsr_plugins.*']),
    package_data={
        'basicsr_plugins': ['weights/*'],
        'basicsr_plugins.benchmark': ['*.html', '*.css', '*.js', '*.csv'],
    },
    data_files=[('', ['basicsr_plugins_autoload.pth'])],
    entry_points={'console_scripts': ['basicsr-plugins = basicsr_plugins.commands:run']},
    distclass=DistributionWithData,
    cmdclass={'install_data': InstallPthFile},
    python_requires='>=3.9',
    install_requires=[
        # 2.6 is the first release whose torch.load reads data only (weights_only) unless told otherwise.
        'torch>=2.6',
        'torchvision',
        'basicsr>=1.4.2',
        'numpy',
        'opencv-python',
        'lmdb',
        'packaging',
        'jinja2',
        'matplotlib',
        'pyyaml',
        'tqdm',
        'safetensors',
        'av>=15.1',
        'zstandard>=0.19',
    ],
    extras_require={
        'mmcv': ['mmcv>=2.0'],
        'demo': ['scikit-image', 'scikit-learn'],
        'export': ['onnx>=1.14', 'onnxruntime>=1.22'],
        'openvino': ['onnx>=1.14', 'openvino>=2024.4'],
        'dev': [
            *('pytest', 'pytest-xdist', 'ruff==0.17.*', 'scikit-image', 'scikit-learn', 'playwright'),
            *('onnx', 'onnxruntime', 'openvino'),
        ],
    },
    classifiers=[
        'Development Status :: 4 - Beta',
        'Environment :: Console',
        'Environment :: GPU :: NVIDIA CUDA',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in range(9, 14)),
        'Topic :: Multimedia :: Video',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Processing',
    ],
)
