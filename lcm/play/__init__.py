"""The playground: a page in the browser, on this machine, that draws while one types."""
