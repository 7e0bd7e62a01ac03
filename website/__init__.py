"""
The documentation as a site, from README.md, CHANGELOG.md, docs and the docstrings: `python -m website FOLDER`.
"""
