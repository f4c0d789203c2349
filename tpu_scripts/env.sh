# shellcheck shell=bash disable=SC2034
# The one file to edit. `TPU_ENV=other.sh create.sh` reads another one instead.

# Required.
PROJECT=your-project
ZONE=your-zone                        # such as us-central2-b
BUCKET=your-bucket                    # in the zone's region; may end in /folder
TPU_NAME=flipped-3b
ACCELERATOR_TYPE=v4-32
RUNTIME_VERSION=tpu-ubuntu2204-base   # docs/tpu.md lists those of other types
SPOT=true                             # false: on demand

# Often left as it is.
QUEUED_RESOURCE=$TPU_NAME             # the request that the TPU comes from
CREATE_FLAGS=()                       # such as (--service-account=NAME)
SSH_FLAGS=()                          # such as (--tunnel-through-iap)
NUM_WORKERS=                          # VMs and JAX devices of the slice; empty:
NUM_DEVICES=                          # worked out from ACCELERATOR_TYPE
REMOTE_DIR=flipped_t5x                # on the workers, under the home folder
REPOSITORY=                           # git URL to clone; empty: copy this one
REVISION=main                         # of REPOSITORY
WORKER_ENV=()                         # such as (FLIPPED_T5X_SOURCES=hub)
CACHE_DIR=gs://$BUCKET/caches         # SeqIO's caches, see cache.sh

# Patience.
CREATE_ATTEMPTS=10                    # when quota or capacity is short,
BACKOFF_SECONDS=30                    # first after so long, then doubled up to
MAX_BACKOFF_SECONDS=900               # this
POLL_SECONDS=60
SSH_ATTEMPTS=10                       # until a new VM lets one in
STOP_SECONDS=60                       # from SIGTERM to SIGKILL
MAX_RESTARTS=50                       # babysit.sh: new TPUs
MAX_CRASHES=3                         # babysit.sh: runs that end in an error
