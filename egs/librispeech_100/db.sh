# Where LibriSpeech lies: the folder LibriSpeech/ itself or the one that holds it.
# The environment variable has the last word. `--download true` puts it here, too.
export LIBRISPEECH=${LIBRISPEECH:-${PWD}/downloads}
