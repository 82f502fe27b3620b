"""Settings of the documentation's builder, Sphinx; `make docs` runs it."""

import os
from pathlib import Path

from sphinx.addnodes import download_reference, pending_xref
from sphinx.util.nodes import make_refnode

import modeling_proformer


project = "modeling_proformer"
release = modeling_proformer.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"Proformer {release}"
html_show_copyright = False
html_copy_source = False

# Headings can be linked to, as on GitHub.
myst_heading_anchors = 3

# "" is code as well.
smartquotes = False
# Names in backquotes become links where the reference has them.
default_role = "py:obj"
autodoc_default_options = {
    "member-order": "bysource",
    # Every configuration and model has them, and neither has a docstring of its own.
    "exclude-members": "config_class, validate",
}
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False
python_maximum_signature_line_length = 88


def skip_fields_of_tuples(app, kind, name, thing, skip, options):
    """Their class's docstring tells of them."""
    return True if type(thing).__name__ == "_tuplegetter" else None


def link_to_another_module(app, env, node, content):
    """Docstrings call what is in another module by its bare name."""
    found = {
        entry.node_id: entry
        for name, entry in env.domains.python_domain.objects.items()
        if name.endswith(f".{node['reftarget']}") and entry.objtype in ("class", "exception", "function")
    }
    if node["reftype"] != "obj" or len(found) != 1:
        return None
    (entry,) = found.values()
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content)


def give_as_files(app, document):
    """Markdown files outside this folder are no pages of the site: a link gives the file, as of any other kind."""
    for link in list(document.findall(pending_xref)):
        if link.get("refdomain") == "doc" and Path(link["reftarget"]).is_absolute():
            target = os.path.relpath(f"{link['reftarget']}.md", app.srcdir)
            link.replace_self(download_reference("", "", *link.children, reftarget=target))


def setup(app):
    # Before Sphinx collects the files that are given.
    app.connect("doctree-read", give_as_files, priority=100)
    app.connect("autodoc-skip-member", skip_fields_of_tuples)
    app.connect("missing-reference", link_to_another_module)
