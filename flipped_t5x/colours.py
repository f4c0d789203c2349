"""The colours of reports, of plots, and of the page of `flipped-t5x serve`."""

# Name -> the colour on light pages and in PNG files, and on dark pages. Each
# has only one meaning in a figure.
COLOURS = {
    'ink': ('#202428', '#e4e7ea'),
    'faint': ('#6b7279', '#98a1aa'),
    'line': ('#d3d7db', '#3d444b'),
    'run-0': ('#1b6ca8', '#6cb4ea'),
    'run-1': ('#c93a4e', '#f58a97'),
    'run-2': ('#2a7d4f', '#6fce98'),
    'run-3': ('#a8650f', '#e8ae55'),
    'run-4': ('#7a4aa5', '#c09be8'),
    'run-5': ('#0f7f86', '#58cdd4'),
    'run-6': ('#8c5a3c', '#d3a384'),
    'run-7': ('#5b6470', '#a9b4c2'),
}
# Of what is told apart in a figure: runs, or labels.
APART = tuple(light for name, (light, _) in COLOURS.items() if 'run' in name)
