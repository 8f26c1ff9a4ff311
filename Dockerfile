# The command as an image: the sidecar `serve`, and the file to copy into other images for `run`.
#
#     docker build --tag registry.example.com/leader-election:1 .
#     docker push registry.example.com/leader-election:1
#
# It holds one executable on a plain Debian, without npm and without a package of the build, and needs no root, no
# capability and nothing to write to: readOnlyRootFilesystem and PodSecurity restricted fit. In an image of yours:
#
#     COPY --from=registry.example.com/leader-election:1 /usr/local/bin/effect-kubernetes-leader-election /usr/local/bin/
#
# which needs glibc, libstdc++ and, for the guard of `run`, a shell: Debian, Ubuntu and Red Hat have them, Alpine has not.

FROM node:24-slim AS build
WORKDIR /src
COPY package.json package-lock.json ./
COPY packaging/package.json packaging/package-lock.json ./packaging/
RUN npm ci --ignore-scripts --no-audit --no-fund && npm ci --force --no-audit --no-fund --prefix packaging
COPY scripts ./scripts
COPY src ./src
RUN node scripts/build-executable.ts "$(node -p process.arch)" && mv dist/executable/*-linux-* dist/command

FROM debian:12-slim
COPY --from=build /src/dist/command /usr/local/bin/effect-kubernetes-leader-election
COPY --from=build /src/dist/executable/THIRD-PARTY-NOTICES /usr/share/doc/effect-kubernetes-leader-election/
# By number: Kubernetes cannot tell from a name that it is not root (runAsNonRoot).
USER 1000
ENTRYPOINT ["/usr/local/bin/effect-kubernetes-leader-election"]
CMD ["--help"]
