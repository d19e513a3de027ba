# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""What the site (mkdocs.yml) needs beyond MkDocs: files outside of docs/, notebooks, docstrings.

Pages link to READMEs, configs and programs as in a clone, ``../configs/pwlu``. Each file that is
linked to becomes a page of the site under ``repo/``, so that every link works without a network,
and one that leads nowhere stops the build.
"""

import json
import posixpath
import re
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority, get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
LOG = get_plugin_logger(__name__)
# A fenced block, in which nothing is a link; or the address of a relative link.
LINK = re.compile(
    r'^(?P<fence> *`{3,}).*?^(?P=fence)|(?<=\]\()(?P<to>(?!\w+:|#)[^)\s#]+)', re.M | re.S
)
LANGUAGES = {'.py': 'python', '.sh': 'shell', '.yml': 'yaml', '.json': 'json'}


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds notebooks as Markdown, and the files of the repository that pages link to."""
    waiting = [file for file in files if file.src_uri.endswith('.md')]
    for file in list(files):
        if file.src_uri.endswith('.ipynb'):
            files.remove(file)
            page = File.generated(config, uri_of('docs/' + file.src_uri), content=notebook(file))
            files.append(page)
    for name in ('CONTRIBUTING.md', 'CHANGELOG.md'):
        waiting.append(add(files, config, name))
    while waiting:
        file = waiting.pop()
        for match in LINK.finditer(file.content_string):
            if not match['to']:
                continue
            name = target_of(file.src_uri, match['to'])
            if not (ROOT / name).is_file():
                LOG.warning(f'{file.src_uri} links to {match["to"]}: there is no file {name}')
            elif not name.startswith('docs/') and uri_of(name) not in files.src_uris:
                waiting.append(add(files, config, name))


def on_page_markdown(markdown: str, page: Page, **_) -> str:
    """Lets the links of a page lead to the pages that files have become."""
    here = page.file.src_uri

    def link(match: re.Match) -> str:
        if not match['to']:
            return match[0]
        return posixpath.relpath(uri_of(target_of(here, match['to'])), posixpath.dirname(here))

    return LINK.sub(link, markdown)


@event_priority(-100)  # after the search has written its index
def on_post_build(config: MkDocsConfig) -> None:
    """Writes the index as a script too, for a page opened from the disk may not read JSON."""
    index = Path(config.site_dir, 'search/search_index.json')
    script = f'var __index = {index.read_text(encoding="utf-8")}'
    index.with_suffix('.js').write_text(script, encoding='utf-8')


def add(files: Files, config: MkDocsConfig, name: str) -> File:
    """Adds a file of the repository as a page."""
    text = (ROOT / name).read_text(encoding='utf-8')
    if not name.endswith('.md'):
        language = LANGUAGES.get(Path(name).suffix, 'text')
        # Neither found by the search nor read for links.
        head = f'---\nsearch: {{exclude: true}}\n---\n# {Path(name).name}\n\n`{name}`\n\n'
        text = f'{head}```` {language}\n{text}\n````\n'
    file = File.generated(config, uri_of(name), content=text)
    files.append(file)
    return file


def target_of(page_uri: str, link: str) -> str:
    """The path, in the repository, of what a page links to; of a folder, its README."""
    here = page_uri.removeprefix('repo/') if page_uri.startswith('repo/') else 'docs/' + page_uri
    name = posixpath.normpath(posixpath.join(posixpath.dirname(here), link))
    return name + '/README.md' if (ROOT / name).is_dir() else name


def uri_of(name: str) -> str:
    """The page of the site that a file of the repository becomes; other files of docs/ stay."""
    if name.startswith('docs/'):
        return name.removeprefix('docs/').replace('.ipynb', '.md')
    return f'repo/{name}' if name.endswith('.md') else f'repo/{name}.md'


def notebook(file: File) -> str:
    """A notebook with its outputs as Markdown."""
    parts = []
    for cell in json.loads(file.content_string)['cells']:
        source = ''.join(cell['source'])
        parts.append(source if cell['cell_type'] == 'markdown' else f'```python\n{source}\n```')
        for output in cell.get('outputs', ()):
            data = output.get('data', {'text/plain': output.get('text', '')})
            if 'image/png' in data:
                parts.append(f'![](data:image/png;base64,{data["image/png"].strip()})')
            else:
                parts.append(f'```text\n{"".join(data["text/plain"]).rstrip()}\n```')
    return '\n\n'.join(parts)


class Docstrings(griffe.Extension):
    """Reads docstrings as the site shows them."""

    ROLE = re.compile(r':(?:func|class|meth|attr|mod|data):`~?([\w.]+)`')

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """Makes :func:`name` a link where the name has a place on the site, and examples code."""
        if obj.docstring:
            text = self.ROLE.sub(
                r'<autoref identifier="\1" optional><code>\1</code></autoref>', obj.docstring.value
            )
            text = re.sub(r'^Example:$', 'Examples:', text, flags=re.MULTILINE)
            # Several attributes with one description: a blank would end the name.
            text = re.sub(
                r'^ {4}\w+(, \w+)+:',
                lambda m: '    ' + m[0].strip().replace(' ', '\xa0'),
                text,
                flags=re.MULTILINE,
            )
            obj.docstring.value = text
