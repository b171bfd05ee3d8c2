#!/bin/sh
# Migrate the databases, once and before any worker starts, and serve MLflow.
set -eu
python -m mlflow db upgrade "$DATABASE/mlflow"
python -m mlflow.server.auth db upgrade --url "$DATABASE/accounts"
exec python -m mlflow server --app-name basic-auth --host 0.0.0.0 --port 5000 --workers 2 \
    --allowed-hosts "$MLFLOW_HOST,127.0.0.1:5000" --cors-allowed-origins "https://$MLFLOW_HOST" \
    --backend-store-uri "$DATABASE/mlflow" --artifacts-destination s3://mlflow/artifacts
