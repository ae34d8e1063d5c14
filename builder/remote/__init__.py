"""What a build takes from elsewhere: files by HTTP, git repositories, archives, contexts with names."""
