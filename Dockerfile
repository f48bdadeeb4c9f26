# syntax=docker/dockerfile:1
# The `ris` command on the CPU, with the embedded backbone and the web page's extra:
#
#   docker build -t vpd-ris .
#   docker run --rm -v "$PWD:/data" -w /data vpd-ris predict picture.jpg "the dog" --weights FOLDER
#   docker run --rm -p 127.0.0.1:7860:7860 -v "$PWD/FOLDER:/weights:ro" vpd-ris \
#       app --weights /weights --host 0.0.0.0
#
# Untested: no image has been built from this file, for want of a docker daemon where it was written.
FROM python:3.11-slim

# OpenCV links libGL, which this image lacks.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/vpd-ris
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

# The packages first: they change less often than the code. The CPU build of torch before the rest,
# which would otherwise bring several GB of CUDA packages.
COPY requirements.txt ./
RUN pip install "$(grep '^torch==' requirements.txt)" \
        --index-url https://download.pytorch.org/whl/cpu \
    && pip install -r requirements.txt

# Installed in place: configs/ and checkpoints/tiny-t2i are found beside the packages.
COPY . .
RUN pip install --no-build-isolation -c requirements.txt -c requirements-extras.txt -e '.[app]'

# Whatever it writes belongs to the user of the folder that is mounted: docker run --user "$(id -u)".
RUN useradd --create-home ris
USER ris
ENTRYPOINT ["ris"]
CMD ["--help"]
