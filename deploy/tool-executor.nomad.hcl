# The executor as a service of the cluster on which it runs its containers. Before it is run:
#   nomad var put nomad/jobs/tool-executor token=$(openssl rand -hex 32) secret=$(openssl rand -hex 32)
# and, with ACLs, the policy of docs/nomad.md for this job:
#   nomad acl policy apply -job tool-executor tool-executor policy.hcl
job "tool-executor" {
  type = "service"

  group "executor" {
    # One at a time: two executors of one name would end each other's containers.
    count = 1

    network {
      port "service" {
        static = 9001
      }
    }

    # What a restart needs comes along where it can. If it is lost, `secret` still opens the containers that are left.
    ephemeral_disk {
      sticky  = true
      migrate = true
    }

    service {
      name     = "tool-executor"
      provider = "nomad"
      port     = "service"

      check {
        type     = "http"
        path     = "/health"
        interval = "10s"
        timeout  = "3s"
      }
    }

    task "executor" {
      driver = "docker"

      config {
        image = "tool-executor:local"
        ports = ["service"]
      }

      # What the task's socket of Nomad's API wants.
      identity {
        env = true
      }

      env {
        NOMAD_ADDR                = "unix://${NOMAD_SECRETS_DIR}/api.sock"
        TOOL_EXECUTOR_EXECUTOR_ID = "${NOMAD_JOB_NAME}"
        TOOL_EXECUTOR_STATE_DIR   = "${NOMAD_ALLOC_DIR}/data/tool-executor"
        # Where the agents' nodes download the agent.
        TOOL_EXECUTOR_ADVERTISE      = "http://${NOMAD_ADDR_service}"
        TOOL_EXECUTOR_IMAGE          = "python:3.12"
        TOOL_EXECUTOR_MAX_CONTAINERS = "10"
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/executor.env"
        env         = true
        data        = <<-EOF
          {{ with nomadVar "nomad/jobs/tool-executor" }}
          TOOL_EXECUTOR_TOKEN={{ .token }}
          TOOL_EXECUTOR_SECRET={{ .secret }}
          {{ end }}
        EOF
      }

      # Longer than drain_timeout, for which accepted calls may go on.
      kill_timeout = "30s"

      resources {
        cpu    = 1000
        memory = 1024
      }
    }
  }
}
