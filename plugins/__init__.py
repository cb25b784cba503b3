"""The built-in components, installed as ``adkit_plugins``: one component per file, one folder per kind.

They reach adkit through the entry-point group ``adkit``, as any third party's do, import only adkit's public
modules and never one another.
"""
