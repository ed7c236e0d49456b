"""The HTTP server: security, limits and logs around the routes, one file for each resource of an API."""
