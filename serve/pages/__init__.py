"""Pages for people with browsers: about the server, and to sign in and out."""
