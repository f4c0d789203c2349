"""Packaging; the one tested set of versions is in constraints.txt."""

import pathlib

import setuptools

T5X_COMMIT = 'cc342d4'
AIRIO_COMMIT = '69897df'
JESTIMATOR_COMMIT = '326824a'
_GITHUB = 'git+https://github.com/google'
PACKAGES = (
    'cli', 'engine', 'evaluation', 'experiment', 'fine_tuning', 'inference',
    'inspection', 'network', 'new_task', 'precompile', 'prompts', 'reports',
    'serving', 'settings', 'tables', 'weights',
)
# SeqIO brings TensorFlow, which nothing else here needs.
SEQIO = ['seqio>=0.0.20']

setuptools.setup(
    name='flipped_t5x',
    version='0.1.0',
    description='Flipped learning with T5 in JAX: guess the instruction',
    long_description=pathlib.Path(__file__).with_name('README.md').read_text(),
    long_description_content_type='text/markdown',
    author='The flipped_t5x authors',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords='T5 T5X JAX SeqIO zero-shot flipped-learning',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3.11',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    python_requires='>=3.11',
    packages=[
        'flipped_t5x',
        *(f'flipped_t5x.{name}' for name in PACKAGES),
        'flipped_t5x.gin',
        'flipped_t5x.tasks',
        'flipped_t5x.tasks.sources',
    ],
    # The folders that users edit lie at the top; they are installed inside the
    # package, because a top-level `tasks` or `gin` would clash with others.
    package_dir={'flipped_t5x.gin': 'gin', 'flipped_t5x.tasks': 'tasks'},
    package_data={
        'flipped_t5x': ['py.typed', '*.yaml'],
        'flipped_t5x.reports': ['*.csv', '*.jinja'],
        'flipped_t5x.gin': ['*/*.gin'],
        'flipped_t5x.tasks': ['*.csv', 'templates/*.yaml'],
    },
    install_requires=[
        'absl-py',
        'etils',
        'flax>=0.12',
        'gin-config>=0.5.0',
        'grain>=0.2.18',
        'huggingface_hub',
        'jax>=0.10',
        'jinja2',
        'jsonschema',
        'matplotlib',
        'numpy',
        'onnx',
        'openpyxl',
        'optax>=0.2.8',
        'orbax-checkpoint>=0.12',
        'protobuf',
        'pyarrow',
        'pyyaml',
        'rich',
        'safetensors',
        'scipy>=1.15',
        'sentencepiece>=0.2',
        'tensorboard',
        'tensorboardX',
        'tensorstore',
        'tqdm',
        'wrapt',
    ],
    extras_require={
        # Beam's TFRecords need the checksums, and Beam a protobuf below 7.
        'cache': [
            *SEQIO, 'apache-beam', 'google-crc32c', 'sentencepiece<0.2.3',
        ],
        'docs': ['mkdocs', 'mkdocs-material', 'mkdocstrings[python]'],
        # A name with an underscore would be dropped by pip 23 in silence.
        'lm-eval': ['lm-eval==0.4.13'],
        'notebook': ['ipykernel', 'nbclient'],
        'seqio': SEQIO,
        'serve': ['gradio'],
        'test': [
            *SEQIO, 'mypy', 'playwright', 'pytest', 'pytest-xdist', 'ruff',
            'scikit-learn',
            'types-PyYAML', 'types-tqdm',
        ],
        # What converted weights are compared with; only tests import it.
        'torch': ['peft', 'torch', 'transformers'],
        'tpu': ['jax[tpu]'],
        'gcs': ['gcsfs'],  # Google Storage without TensorFlow.
        'gpu': ['jax[cuda13]'],
        't5x': [
            *SEQIO,
            f't5x @ {_GITHUB}-research/t5x@{T5X_COMMIT}',
            f'airio @ {_GITHUB}/airio@{AIRIO_COMMIT}',
            f'jestimator @ {_GITHUB}-research/jestimator@{JESTIMATOR_COMMIT}',
            'cached_property',
            'clu',
            'fiddle',
            'grain',
            'tensorboard',
        ],
    },
    entry_points={'console_scripts': ['flipped-t5x=flipped_t5x.cli.main:main']},
)
