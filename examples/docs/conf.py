"""Settings of Sphinx, which builds the documentation; `make docs` runs it."""

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

# Make headings link targets, as on GitHub.
myst_heading_anchors = 3

# Quotation marks in the text may be code, such as "".
smartquotes = False
# A name in backquotes becomes a link if the reference has it.
default_role = "py:obj"
autodoc_default_options = {
    "member-order": "bysource",
    # Every configuration and model inherits these, without a docstring of its own.
    "exclude-members": "config_class, validate",
}
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False
python_maximum_signature_line_length = 88


def skip_fields_of_tuples(app, kind, name, thing, skip, options):
    """Leave out the fields of named tuples, because the docstring of the class describes them."""
    return True if type(thing).__name__ == "_tuplegetter" else None


def link_to_another_module(app, env, node, content):
    """Resolve a bare name in a docstring to the class or function of this name in another module."""
    found = {
        entry.node_id: entry
        for name, entry in env.domains.python_domain.objects.items()
        if name.endswith(f".{node['reftarget']}") and entry.objtype in ("class", "exception", "function")
    }
    if node["reftype"] != "obj" or len(found) != 1:
        return None
    (entry,) = found.values()
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content)


def link_as_downloads(app, document):
    """Make links to Markdown files outside this folder downloads, because these files are not pages of the site."""
    for link in list(document.findall(pending_xref)):
        if link.get("refdomain") == "doc" and Path(link["reftarget"]).is_absolute():
            target = os.path.relpath(f"{link['reftarget']}.md", app.srcdir)
            link.replace_self(download_reference("", "", *link.children, reftarget=target))


def setup(app):
    # Run before Sphinx collects the downloads.
    app.connect("doctree-read", link_as_downloads, priority=100)
    app.connect("autodoc-skip-member", skip_fields_of_tuples)
    app.connect("missing-reference", link_to_another_module)
