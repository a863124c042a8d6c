# Where the Free Spoken Digit Dataset lies: the folder that holds recordings/.
# The environment variable has the last word.
export FSDD=${FSDD:-${PWD}/downloads/free-spoken-digit-dataset}
