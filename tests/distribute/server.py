"""A worker or parameter server, until it is killed or its parent ends."""

import cluster
import tensorflow as tf

cluster.end_with_parent()
resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
tf.distribute.Server(
    resolver.cluster_spec(),
    job_name=resolver.task_type,
    task_index=resolver.task_id,
    protocol="grpc",
    start=True,
).join()
