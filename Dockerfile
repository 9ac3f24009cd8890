# Each RUN is one call of a script under scripts/container, which scripts/check-deployment runs without an engine.
FROM rust:1.89-slim-bookworm AS build
WORKDIR /source
COPY . .
RUN scripts/container/build /image

FROM debian:bookworm-slim
COPY --from=build /image/ /
COPY scripts/ /usr/local/share/genie/scripts/
RUN /usr/local/share/genie/scripts/container/runtime
USER genie
WORKDIR /var/lib/genie
ENV HOST=0.0.0.0 SERVER_PORT=3001 GENIE_DATA_DIR=/var/lib/genie GENIE_FORGOTTEN_FILE=/var/lib/genie-forgotten/ledger GENIE_LOG_FORMAT=json
VOLUME ["/var/lib/genie", "/var/lib/genie-forgotten"]
EXPOSE 3001
ENTRYPOINT ["/usr/local/bin/genie"]
CMD ["serve"]
