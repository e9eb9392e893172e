"""Teachers from elsewhere, brought to the library's coordinate where they are loaded."""
