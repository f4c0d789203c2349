"""Labels and an instruction as HTML: bars, and words in the labels' colours.

The page of `flipped-t5x serve` and notebooks show it. Colours are tints of what
lies behind, and texts have its colour, so that it fits light and dark pages.
"""

from collections.abc import Mapping, Sequence

from flipped_t5x import colours
import jinja2

_TEMPLATE = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
).from_string("""\
{% macro mark(text, label) %}
<mark title="{{ label }}" style="--label: {{ colours[label] }}">{{ text -}}
</mark>
{%- endmacro %}
<div class="flipped-t5x">
<style>
.flipped-t5x { max-width: 40rem; }
.flipped-t5x ol { list-style: none !important; margin: 0 0 1rem; \
padding: 0 !important; }
.flipped-t5x li { margin: 0 0 .4rem; }
.flipped-t5x li > div { display: flex; gap: 1rem; \
justify-content: space-between; }
.flipped-t5x li span:first-child { overflow-wrap: anywhere; }
.flipped-t5x .bar { background: var(--label); border-radius: 2px; \
height: .5rem; min-width: 1px; }
.flipped-t5x p { line-height: 1.8; margin: 0 0 .5rem; white-space: pre-wrap; \
overflow-wrap: anywhere; }
.flipped-t5x mark { background: color-mix(in srgb, var(--label) 35%, \
transparent); border-radius: 2px; color: inherit; padding: .1rem 0; }
</style>
<p>Probability of each label</p>
<ol aria-label="Probability of each label">
{% for label, probability in probabilities.items() %}
<li style="--label: {{ colours[label] }}">
<div><span>{{ label }}</span> <span>{{ '%.1f %%' | format(100 * probability) }}\
</span></div>
<div class="bar" style="width: {{ '%.1f' | format(100 * probability) }}%"></div>
</li>
{% endfor %}
</ol>
{% if words %}
<p aria-label="Instruction">
{%- for text, label in words %}
{%- if label is none %}{{ text }}{% else %}{{ mark(text, label) }}{% endif %}
{%- endfor %}
</p>
<p>Likelier with:{% for label in probabilities %} {{ mark(label, label) }}\
{% endfor %}
</p>
{% endif %}
</div>
""")


def html(
    probabilities: Mapping[str, float],
    words: Sequence[tuple[str, str | None]] | None,
) -> str:
  """An element of HTML.

  Args:
    probabilities: label -> probability, best first.
    words: see `Explanation.words`; None if no instruction is explained.
  """
  return _TEMPLATE.render(
      probabilities=probabilities, words=words,
      colours={
          label: colours.APART[i % len(colours.APART)]
          for i, label in enumerate(probabilities)
      },
  )
