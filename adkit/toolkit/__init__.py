"""Building blocks for plugins, the built-in ones and yours."""
