"""A pointer of Git LFS in place of any file of a model is named as such."""

from flipped_t5x.prompts import hf_vocabulary
from flipped_t5x.weights import model_files
from flipped_t5x.weights import safetensors_files
from flipped_t5x.weights import torch_files
import pytest

POINTER = (
    'version https://git-lfs.github.com/spec/v1\n'
    f'oid sha256:{"8a5edab2" * 8}\nsize 1000000\n'
)


@pytest.mark.parametrize('name, opens', (
    ('a.safetensors', lambda f: safetensors_files.open(f / 'a.safetensors')),
    ('pytorch_model.bin', lambda f: torch_files.open(f / 'pytorch_model.bin')),
    ('config.json', model_files.open),
    ('spiece.model', hf_vocabulary.find),
    ('tokenizer.json', hf_vocabulary.find),
    ('checkpoint_7/checkpoint', model_files.open),
    ('checkpoint_7/state/_METADATA', model_files.open),
), ids=lambda value: value if isinstance(value, str) else '')
def test_pointer(name, opens, tmp_path):
  path = tmp_path / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(POINTER)
  with pytest.raises(
      ValueError, match=f'^{path} is only a pointer of Git LFS, and not the fi'
  ):
    opens(tmp_path)
