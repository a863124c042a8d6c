# Folder of LibriSpeech: LibriSpeech/ itself or its parent.
# The environment variable takes precedence. `--download true` downloads to this folder.
export LIBRISPEECH=${LIBRISPEECH:-${PWD}/downloads}
