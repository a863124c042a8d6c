# Folder of the Free Spoken Digit Dataset, which contains recordings/.
# The environment variable takes precedence.
export FSDD=${FSDD:-${PWD}/downloads/free-spoken-digit-dataset}
