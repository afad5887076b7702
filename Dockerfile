# One image for the web server, the background and migrations. No compiler, no pip's cache, nobody's root.
#
#   docker build --tag guard:0.2.0 .
#
# `make test-image` runs these steps without Docker, each in a directory that stands for its stage.

FROM python:3.11-slim-bookworm AS build
WORKDIR /app
RUN python -m venv --without-pip /opt/guard
COPY requirements.lock ./
RUN pip --python /opt/guard/bin/python install --no-cache-dir --no-deps --require-hashes --only-binary :all: --requirement requirements.lock
# Languages that the guard does not speak, and what is for debuggers and compilers: 20 MB.
RUN find /opt/guard/lib -type f \( -name '*.po' -o -name '*.mo' \) ! -path '*/locale/en/*' -delete
RUN find /opt/guard/lib -type f \( -name '*.js.map' -o -name '*.css.map' -o -name '*.pyx' -o -name '*.pyi' \) -delete
COPY manage.py ./
COPY guard ./guard
COPY tenants ./tenants
COPY spend ./spend
COPY dashboard ./dashboard
# Compiled here: a root that is read-only keeps nothing that is compiled later.
RUN /opt/guard/bin/python -m compileall -q -j 0 /opt/guard/lib /app

FROM python:3.11-slim-bookworm
COPY --from=build /opt/guard /opt/guard
COPY --from=build /app /app
WORKDIR /app
ENV PATH=/opt/guard/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "manage.py"]
CMD ["serve"]
